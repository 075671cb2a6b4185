//! Statistics of a pod: the machine's own on the host, and those of its containers in the guest.

use hutch_agent_proto::ContainerStats;
use serde::{Deserialize, Serialize};

use crate::backend::VmStats;
use crate::error::Result;
use crate::id::PodId;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

/// Statistics of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStats {
    /// The VMM process.
    pub machine: VmStats,
    /// Containers by id, in creation order; those that run.
    pub containers: Vec<(String, ContainerStats)>,
}

impl Runtime {
    /// Statistics of a pod and its running containers. Of a paused pod only the machine's: its guest cannot answer.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) for a stopped pod; an error of the agent.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// let stats = runtime.stats_pod("web")?;
    /// assert_eq!(stats.containers[0].0, "server");
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stats_pod(&self, pod: &str) -> Result<PodStats> {
        let mut pod = OpenPod::shared(self, &PodId::new(pod)?)?;
        Verb::StatsContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        let machine = pod.sandbox.vm_stats()?;
        let mut stats = PodStats { machine, containers: Vec::new() };
        if pod.state.state == State::Paused {
            return Ok(stats);
        }
        pod.for_each_container(|container| {
            if matches!(container.state.state, Some(State::Ready | State::Running)) {
                let found = container.stats()?;
                stats.containers.push((container.id.to_string(), found));
            }
            Ok(())
        })?;
        Ok(stats)
    }
}
