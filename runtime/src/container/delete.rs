//! DeleteContainer (§7.2).

use crate::container::{ids, ContainerHandle};
use crate::error::Result;
use crate::pod::{OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// Deletes a ready or stopped container, in any state of its pod (P-102). A ready one is removed from the guest with
    /// its shim, binds and devices (P-103).
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a running or paused one,
    /// [`Error::NoSuchContainer`](crate::Error::NoSuchContainer).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.create_pod(world.pod("web", &["server"]))?;
    /// runtime.delete_container("web", "server")?;
    /// assert!(runtime.status_container("web", "server").unwrap_err().is_not_found());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn delete_container(&self, pod: &str, container: &str) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let index = pod.find(&container)?;
        let state = pod.containers[index].state.state;
        Verb::DeleteContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        Verb::DeleteContainer.check_container(container.as_str(), state)?;
        if state == Some(State::Ready) {
            pod.stop_container(
                index,
                StopMode { force: false, grace_deadline: None, on_unreachable: UnreachablePolicy::Fails },
            )?;
        }
        // A restart that died half way may have left a stopped one with a process. In a paused pod the guest gets its
        // vCPUs back to tell; held, it would be waited for in vain.
        pod.with_vcpus_running(|pod| pod.roll_back_container(index))?;
        let handle = ContainerHandle::new(self, &pod, index);
        // From here on it is no part of the pod; what is left of it is removed now, or by the next call.
        pod.containers.remove(index);
        pod.put_config()?;
        pod.remove_container_dirs(&container)?;
        pod.sync_size()?;
        Ok(handle)
    }
}
