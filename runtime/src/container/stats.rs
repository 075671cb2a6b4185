//! Figures of one container (M-04).

use hutch_agent_proto::{ContainerStats, Request, Response};

use crate::container::ids;
use crate::error::Result;
use crate::pod::{unexpected, OpenPod};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// CPU, memory, processes, block and network figures of a container, from its cgroup in the guest.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a stopped container or a paused pod; the guest's.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &["server"]))?;
    /// assert_eq!(runtime.stats_container("web", "server")?.pids, 1);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stats_container(&self, pod: &str, container: &str) -> Result<ContainerStats> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let index = pod.find(&container)?;
        let (id, state) = (pod.id.to_string(), pod.state.state);
        // The guest of a paused pod cannot answer.
        let verb = if state == State::Paused { Verb::ListProcesses } else { Verb::StatsContainer };
        verb.check_pod(&id, state)?;
        Verb::StatsContainer.check_container(container.as_str(), pod.containers[index].state.state)?;
        pod.container_stats(index)
    }
}

impl OpenPod<'_> {
    pub(crate) fn container_stats(&mut self, index: usize) -> Result<ContainerStats> {
        let id = self.containers[index].id.to_string();
        match self.live.ask("stats", Request::Stats { id })? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(unexpected("stats")),
        }
    }
}
