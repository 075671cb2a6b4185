//! Finding a container by its id.

use crate::container::{ids, ContainerHandle};
use crate::error::Result;
use crate::pod::OpenPod;
use crate::runtime::Runtime;

impl Runtime {
    /// The container with this id in a pod.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), [`Error::NoSuchContainer`](crate::Error::NoSuchContainer).
    pub fn get_container(&self, pod: &str, container: &str) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let pod = OpenPod::shared(self, &pod)?;
        let found = pod.find(&container)?;
        Ok(ContainerHandle::new(&pod, found))
    }
}
