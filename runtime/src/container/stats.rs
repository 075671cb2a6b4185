//! Statistics of one container.

use hutch_agent_proto::{ContainerStats, Request, Response};

use crate::container::{ids, ContainerRef};
use crate::error::Result;
use crate::pod::{unexpected, OpenPod};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// CPU, memory, process, block and network statistics of a container, from its cgroup in the guest.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a stopped container or a paused pod; an error of the agent.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// assert_eq!(runtime.stats_container("web", "server")?.pids, 1);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stats_container(&self, pod: &str, container: &str) -> Result<ContainerStats> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let mut container = pod.container(&container)?;
        let (id, state) = (container.pod.id.to_string(), container.pod.state.state);
        // The guest of a paused pod cannot answer.
        let verb = if state == State::Paused { Verb::ListProcesses } else { Verb::StatsContainer };
        verb.check_pod(&id, state)?;
        Verb::StatsContainer.check_container(container.id.as_str(), container.state.state)?;
        container.stats()
    }
}

impl ContainerRef<'_, '_> {
    pub(crate) fn stats(&mut self) -> Result<ContainerStats> {
        let request = Request::Stats { id: self.id.to_string() };
        match self.pod.sandbox.call("stats", request)? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(unexpected("stats")),
        }
    }
}
