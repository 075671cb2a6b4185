//! Waiting for the end of a pod's machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Component, Result};
use crate::id::PodId;
use crate::pod::{guarded, OpenPod};
use crate::runtime::Runtime;

/// The end of a pod's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEnd {
    /// The reason, if the end was not asked for.
    pub reason: Option<String>,
}

impl Runtime {
    /// Waits for the end of the pod's machine, at most `timeout`; `None` if the machine still runs. Holds no lock while
    /// it waits. A machine that died is reported at once.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), also if it is deleted meanwhile;
    /// [`Error::Store`](crate::Error::Store).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::StopOptions;
    /// # use std::time::Duration;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &[]))?;
    /// assert!(runtime.wait_pod("web", Duration::from_millis(1))?.is_none());
    /// runtime.stop_pod("web", StopOptions::default())?;
    /// assert!(runtime.wait_pod("web", Duration::from_millis(1))?.is_some());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn wait_pod(&self, pod: &str, timeout: Duration) -> Result<Option<PodEnd>> {
        let id = PodId::new(pod)?;
        let pod = OpenPod::shared(self, &id)?;
        let host = pod.sandbox.backends.vm.clone();
        let record = pod.sandbox.record().cloned();
        drop(pod);
        if let Some(record) = record
            && !guarded(Component::Vmm, "wait-end", || host.wait_end(&record, timeout))?
        {
            return Ok(None);
        }
        Ok(Some(PodEnd { reason: self.status_pod(id.as_str())?.reason }))
    }
}
