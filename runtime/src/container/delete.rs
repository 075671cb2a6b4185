//! DeleteContainer (pod contract, §7.2).

use crate::container::{ids, ContainerHandle};
use crate::error::Result;
use crate::pod::{OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// Deletes a ready or stopped container, in any state of its pod (P-102). A ready one is removed from the guest
    /// with its shim, binds and devices (P-103). In a paused pod that needs the guest's agent, so all vCPUs run until the
    /// agent has answered: a vCPU cannot run one process only, and other containers run for that time too.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a running or paused one,
    /// [`Error::NoSuchContainer`](crate::Error::NoSuchContainer).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.create_pod(host.pod("web", &["server"]))?;
    /// runtime.delete_container("web", "server")?;
    /// assert!(runtime.status_container("web", "server").unwrap_err().is_not_found());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn delete_container(&self, pod: &str, container: &str) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let pod_state = pod.state.state;
        let mut found = pod.container(&container)?;
        let state = found.state.state;
        Verb::DeleteContainer.check_pod(found.pod.id.as_str(), pod_state)?;
        Verb::DeleteContainer.check_container(container.as_str(), state)?;
        if state == Some(State::Ready) {
            found.stop(StopMode { force: false, grace_deadline: None, on_unreachable: UnreachablePolicy::Fails })?;
        }
        // A restart that died half way, or a forced stop that ignored the guest, may have left a stopped one with a process:
        // only the guest knows. In a paused pod the vCPUs run for that question: a paused guest would not answer.
        found.with_vcpus_running(|found| found.roll_back())?;
        let handle = found.handle();
        // From here on it is not a part of the pod. Its remains are removed now, or by the next call.
        found.remove();
        pod.put_config()?;
        pod.remove_container_dirs(&container)?;
        pod.sync_size()?;
        Ok(handle)
    }
}
