//! The reconciling stop: a container whose shim is dead is stopped by whoever asks for its status (§7.5).

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::{FailureRecord, LockMode, ProcessRecord};
use crate::timestamp::Timestamp;

/// How long a machine that has written down its failure may take to be gone.
const FAILING_MACHINE: Duration = Duration::from_secs(1);

/// What a reader found dead, which needs the exclusive lock to be put right.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    dead: Vec<(ContainerId, ProcessRecord)>,
    machine_died: bool,
}

impl Deaths {
    pub(crate) fn is_empty(&self) -> bool {
        self.dead.is_empty() && !self.machine_died
    }
}

impl OpenPod<'_> {
    /// Looks for containers whose shim is dead (P-116), all of them or the one asked for, and for a dead machine.
    pub(crate) fn detect_dead(&self, only: Option<usize>) -> Deaths {
        self.await_end_of_a_failing_machine();
        let mut deaths = Deaths::default();
        for (index, container) in self.containers.iter().enumerate() {
            if only.is_some_and(|only| only != index) || !self.is_dead(index) {
                continue;
            }
            if let Some(process) = &container.process {
                deaths.dead.push((container.id.clone(), process.clone()));
            }
        }
        deaths.machine_died = self.machine_died() && !self.failure_noted();
        deaths
    }

    fn failure_noted(&self) -> bool {
        self.store().get(&self.dirs.failure_record()).ok().flatten().is_some()
    }

    /// Who dies writes down why before the end: from then on nobody is told that the machine runs. Waits, at most a
    /// moment, until it is gone.
    fn await_end_of_a_failing_machine(&self) {
        let Some(record) = self.live.record() else { return };
        if self.state.state == State::Stopped || !self.live.vm_alive() || !self.failure_noted() {
            return;
        }
        match self.live.backends.vm.wait_end(record, FAILING_MACHINE) {
            Ok(_) => {}
            Err(error) => logger::warn!("pod {}: {error}", self.id),
        }
    }

    /// Whether the pod should have a machine and has none.
    pub(crate) fn machine_died(&self) -> bool {
        self.state.state != State::Stopped && !self.live.vm_alive()
    }

    /// A container in `ready`, `running` or `paused` whose shim is dead, or whose machine is, which its shim
    /// notices a moment later; never one without a shim (P-120).
    fn is_dead(&self, index: usize) -> bool {
        let container = &self.containers[index];
        let lives = matches!(container.state.state, Some(State::Ready | State::Running | State::Paused));
        let shim = container.shim();
        lives && shim.is_some() && !(self.live.vm_alive() && self.live.backends.shims.is_alive(shim))
    }
}

impl Runtime {
    /// Stops, one after another (P-119), the containers that were found dead, under the exclusive lock and only if
    /// that is still so (P-025). Its own failures do not matter to the status: the state stays and the next status call
    /// tries again (P-117).
    pub(crate) fn reconcile(&self, id: &PodId, deaths: &Deaths, patience: Duration) {
        if let Err(error) = self.try_reconcile(id, deaths, patience) {
            if !error.is_not_found() {
                logger::warn!("pod {id}: noting what has ended: {}", error.chain());
            }
        }
    }

    fn try_reconcile(&self, id: &PodId, deaths: &Deaths, patience: Duration) -> Result<()> {
        let Some(lock) = self.store().lock(id, LockMode::Exclusive, patience)? else { return Ok(()) };
        let mut pod = OpenPod::load(self, id)?;
        pod.lock = Some(lock);
        if deaths.machine_died && pod.machine_died() {
            pod.note_failure()?;
        }
        for (container, process) in &deaths.dead {
            let Ok(index) = pod.find(container) else { continue };
            if pod.containers[index].process.as_ref() != Some(process) || !pod.is_dead(index) {
                continue;
            }
            let grace = Some(Instant::now());
            let how = StopMode { force: false, grace_deadline: grace, on_unreachable: UnreachablePolicy::Fails };
            if let Err(error) = pod.stop_container_in_any_pod(index, how) {
                logger::warn!("pod {id}: container {container} has ended: {}", Error::chain(&error));
            }
        }
        Ok(())
    }
}

impl OpenPod<'_> {
    fn note_failure(&self) -> Result<()> {
        if self.store().get(&self.dirs.failure_record())?.is_some() {
            return Ok(());
        }
        let reason = "the virtual machine's process has ended unexpectedly".to_owned();
        self.store().put(&self.dirs.failure_record(), &FailureRecord { reason, at: Timestamp::now() })
    }
}
