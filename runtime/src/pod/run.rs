//! RunPod (pod contract, §6.4).

use crate::error::{Error, Result};
use crate::pod::PodHandle;
use crate::runtime::Runtime;
use crate::spec::PodConfig;

impl Runtime {
    /// CreatePod, then StartPod (P-089).
    ///
    /// # Errors
    /// Of the first half: as [`Runtime::create_pod`], nothing is left. Of the second: as [`Runtime::start_pod`], the
    /// pod stays and the caller has to delete it.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// let pod = runtime.run_pod(host.pod("web", &["server"]))?;
    /// assert_eq!(pod.containers(), ["server"]);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn run_pod(&self, config: PodConfig) -> Result<PodHandle> {
        let created = self.create_pod(config)?;
        match self.start_pod(created.id()) {
            // Another call started it between the two.
            Err(Error::InvalidTransition { .. }) => Ok(created),
            started => started.map(|pod| pod.with_stdio_of(&created)),
        }
    }
}
