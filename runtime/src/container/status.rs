//! StatusContainer (pod contract, §7.5).

use hutch_agent_proto::Deadline;

use crate::container::ids;
use crate::error::Result;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::spec::ContainerStatus;

impl Runtime {
    /// Status of a container (P-115). If its process has ended, it is stopped first, and the answer is the state after
    /// that (P-116, P-118).
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), [`Error::NoSuchContainer`](crate::Error::NoSuchContainer),
    /// [`Error::Store`](crate::Error::Store).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// host.guest("web", |guest| guest.exit("server", 7));
    /// let status = runtime.status_container("web", "server")?;
    /// assert_eq!(status.state, Some(hutch_runtime::State::Stopped));
    /// assert_eq!(status.exit.unwrap().code, Some(7));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn status_container(&self, pod: &str, container: &str) -> Result<ContainerStatus> {
        let (id, container) = ids(pod, container)?;
        let pod = OpenPod::shared(self, &id)?;
        let found = pod.find(&container)?;
        let deaths = pod.detect_dead(Some(&container));
        if deaths.is_empty() {
            return Ok(found.status());
        }
        drop(pod);
        let until = Deadline::after(self.options().reconcile_timeout);
        self.reconcile(&id, &deaths, self.options().lock_timeout, until);
        let pod = OpenPod::shared(self, &id)?;
        Ok(pod.find(&container)?.status())
    }
}
