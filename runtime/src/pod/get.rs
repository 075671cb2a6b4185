//! Finding a pod by its id.

use crate::error::Result;
use crate::id::PodId;
use crate::pod::{OpenPod, PodHandle};
use crate::runtime::Runtime;

impl Runtime {
    /// The pod with this id.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod); [`Error::Store`](crate::Error::Store) for damaged records, which
    /// [`Runtime::delete_pod`] can delete.
    pub fn get_pod(&self, pod: &str) -> Result<PodHandle> {
        let pod = OpenPod::shared(self, &PodId::new(pod)?)?;
        Ok(PodHandle::new(&pod))
    }
}
