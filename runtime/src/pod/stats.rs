//! Figures of a pod: the machine's own on the host, and those of its containers in the guest (M-04).

use hutch_agent_proto::ContainerStats;
use serde::{Deserialize, Serialize};

use crate::backend::VmStats;
use crate::error::Result;
use crate::id::PodId;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

/// Figures of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStats {
    /// The VMM process.
    pub machine: VmStats,
    /// Containers by id, in creation order; those that run.
    pub containers: Vec<(String, ContainerStats)>,
}

impl Runtime {
    /// Figures of a pod and its running containers. Of a paused pod only the machine's: its guest cannot answer.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a stopped pod; the guest's.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &["server"]))?;
    /// let stats = runtime.stats_pod("web")?;
    /// assert_eq!(stats.containers[0].0, "server");
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stats_pod(&self, pod: &str) -> Result<PodStats> {
        let mut pod = OpenPod::shared(self, &PodId::new(pod)?)?;
        Verb::StatsContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        let machine = pod.live.vm_stats()?;
        let mut stats = PodStats { machine, containers: Vec::new() };
        if pod.state.state == State::Paused {
            return Ok(stats);
        }
        for index in 0..pod.containers.len() {
            if matches!(pod.containers[index].state.state, Some(State::Ready | State::Running)) {
                let figures = pod.container_stats(index)?;
                stats.containers.push((pod.containers[index].id.to_string(), figures));
            }
        }
        Ok(stats)
    }
}
