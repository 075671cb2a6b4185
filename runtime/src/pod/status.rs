//! StatusPod (pod contract, §6.6).

use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use crate::container::OpenContainer;
use crate::error::Result;
use crate::id::PodId;
use crate::logger;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::spec::PodStatus;
use crate::state::State;

impl Runtime {
    /// Status of a pod and all its containers (P-019). A container whose process has ended is stopped first, so that
    /// the answer is what is true when the call returns (P-116, P-118).
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), [`Error::Store`](crate::Error::Store) for damaged records
    /// (P-043), [`Error::Timeout`](crate::Error::Timeout) if another call holds the pod too long.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server", "side"]))?;
    /// let status = runtime.status_pod("web")?;
    /// let names: Vec<_> = status.containers.iter().map(|c| c.id.as_str()).collect();
    /// assert_eq!(names, ["server", "side"]);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn status_pod(&self, pod: &str) -> Result<PodStatus> {
        let until = Deadline::after(self.options().reconcile_timeout);
        self.present_status(&PodId::new(pod)?, self.options().lock_timeout, until)
    }

    /// The status after ended containers were stopped; each wait for the lock takes at most `timeout`, and guests
    /// are asked `until` then.
    pub(crate) fn present_status(&self, id: &PodId, timeout: Duration, until: Instant) -> Result<PodStatus> {
        let pod = OpenPod::shared_within(self, id, timeout)?;
        let deaths = pod.detect_dead(None);
        if deaths.is_empty() {
            return Ok(pod.status());
        }
        // The lock is not upgraded in place: two readers would wait for each other (P-024).
        drop(pod);
        self.reconcile(id, &deaths, timeout, until);
        // Locked again: another call may be changing the records by now.
        Ok(OpenPod::shared_within(self, id, timeout)?.status())
    }
}

impl OpenPod<'_> {
    /// The status as the records have it.
    pub(crate) fn status(&self) -> PodStatus {
        PodStatus {
            id: self.id.to_string(),
            state: Some(self.state.state),
            hypervisor_type: self.config.hypervisor.kind,
            hypervisor: self.config.hypervisor.clone(),
            agent_type: self.config.agent.kind,
            annotations: self.config.annotations.clone(),
            containers: self.containers().iter().map(OpenContainer::status).collect(),
            jail: self.sandbox.record().and_then(|record| record.jail.clone()),
            vmm_pid: self.sandbox.record().map_or(0, |record| record.process.pid),
            memory_limited_mib: self.sandbox.record().and_then(|record| record.limited_mib),
            memory_unlimited: self.sandbox.record().and_then(|record| record.unlimited.clone()),
            reason: self.reason(),
            busy: false,
            error: None,
        }
    }

    /// The reason of the pod's end or failure, if one is recorded.
    fn reason(&self) -> Option<String> {
        if self.state.state == State::Stopped {
            return self.state.reason.clone();
        }
        let noted = self.store().get(&self.dirs.failure_record()).unwrap_or_else(|e| {
            logger::warn!("pod {}: {}", self.id, e.chain());
            None
        });
        noted.map(|failure| failure.reason)
    }
}
