//! Changing the limits of a live container.

use hutch_agent_proto::{Request, ResourceLimits};

use crate::container::ids;
use crate::error::Result;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::spec::memory_mib;
use crate::verb::Verb;

/// New limits of a container; absent ones stay.
pub type Limits = ResourceLimits;

impl Runtime {
    /// Changes the limits of a ready or running container: in the guest, in its configuration, from which it is started
    /// again, and in the size of the machine. Limits in an OCI document of the container are those of its creation.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig), [`Error::WrongState`](crate::Error::WrongState), the
    /// agent's; nothing is recorded then.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::Limits;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    /// runtime.update_container("web", "server", &limits)?;
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn update_container(&self, pod: &str, container: &str, limits: &Limits) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        if let Some(bytes) = limits.memory {
            memory_mib(bytes)?;
        }
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let mut found = pod.container(&container)?;
        Verb::UpdateContainer.check_pod(found.pod.id.as_str(), found.pod.state.state)?;
        Verb::UpdateContainer.check_container(container.as_str(), found.state.state)?;
        let request = Request::UpdateContainer { id: container.to_string(), limits: limits.clone() };
        found.pod.sandbox.send("update-container", request)?;
        found.config.resources.merge(limits);
        found.put_config()?;
        pod.put_config()?;
        pod.sync_size()
    }
}
