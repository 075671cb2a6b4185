//! Start by container id (P-194).

use crate::error::Result;
use crate::runtime::Runtime;

impl Runtime {
    /// Starts a container. A sandbox container starts its whole pod.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`](crate::Error::NoSuchContainer); else as [`Runtime::start_pod`] and
    /// [`Runtime::start_container`].
    ///
    /// # Examples
    /// See [`Runtime::oci_create`].
    pub fn oci_start(&self, id: &str) -> Result<()> {
        let found = self.find_container(id)?;
        match found.is_sandbox() {
            true => self.start_pod(&found.pod).map(drop),
            false => self.start_container(&found.pod, id).map(drop),
        }
    }
}
