//! The lazy stop: a container whose stand-in is dead is stopped by whoever asks for its status (§7.5).

use std::time::{Duration, Instant};

use crate::container::StopHow;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{GuestLoss, OpenPod};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::{FailureRecord, LockMode, ProcessRecord};
use crate::timestamp::Timestamp;

/// How long a machine that has written down its failure may take to be gone.
const FAILING_MACHINE: Duration = Duration::from_secs(1);

/// What a reader noticed that needs the exclusive lock to be put right.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    dead: Vec<(ContainerId, ProcessRecord)>,
    machine_died: bool,
}

impl Noticed {
    pub(crate) fn is_empty(&self) -> bool {
        self.dead.is_empty() && !self.machine_died
    }
}

impl OpenPod<'_> {
    /// Looks for containers whose stand-in is dead (P-116), all of them or the one asked for, and for a dead machine.
    pub(crate) fn notice(&self, only: Option<usize>) -> Noticed {
        self.await_end_of_a_failing_machine();
        let mut noticed = Noticed::default();
        for (index, container) in self.containers.iter().enumerate() {
            if only.is_some_and(|only| only != index) || !self.is_dead(index) {
                continue;
            }
            if let Some(process) = &container.process {
                noticed.dead.push((container.id.clone(), process.clone()));
            }
        }
        noticed.machine_died = self.machine_died() && !self.failure_noted();
        noticed
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
        match self.live.seams.vm.wait_end(record, FAILING_MACHINE) {
            Ok(_) => {}
            Err(error) => logger::warn!("pod {}: {error}", self.id),
        }
    }

    /// Whether the pod should have a machine and has none.
    pub(crate) fn machine_died(&self) -> bool {
        self.state.state != State::Stopped && !self.live.vm_alive()
    }

    /// A container in `ready`, `running` or `paused` whose stand-in is dead, or whose machine is, which its stand-in
    /// notices a moment later; never one without a stand-in (P-120).
    fn is_dead(&self, index: usize) -> bool {
        let container = &self.containers[index];
        let lives = matches!(container.state.state, Some(State::Ready | State::Running | State::Paused));
        let stand_in = container.stand_in();
        lives && stand_in.is_some() && !(self.live.vm_alive() && self.live.seams.stand_ins.is_alive(stand_in))
    }
}

impl Runtime {
    /// Stops, one after another (P-119), the containers that were noticed dead, under the exclusive lock and only if
    /// that is still so (P-025). Its own failures do not matter to the status: the state stays and the next status call
    /// tries again (P-117).
    pub(crate) fn lazy_stop(&self, id: &PodId, noticed: &Noticed, patience: Duration) {
        if let Err(error) = self.try_lazy_stop(id, noticed, patience) {
            if !error.is_not_found() {
                logger::warn!("pod {id}: noting what has ended: {}", error.chain());
            }
        }
    }

    fn try_lazy_stop(&self, id: &PodId, noticed: &Noticed, patience: Duration) -> Result<()> {
        let Some(lock) = self.store().lock(id, LockMode::Exclusive, patience)? else { return Ok(()) };
        let mut pod = OpenPod::load(self, id)?;
        pod.lock = Some(lock);
        if noticed.machine_died && pod.machine_died() {
            pod.note_failure()?;
        }
        for (container, process) in &noticed.dead {
            let Ok(index) = pod.find(container) else { continue };
            if pod.containers[index].process.as_ref() != Some(process) || !pod.is_dead(index) {
                continue;
            }
            let grace = Some(Instant::now());
            let how = StopHow { force: false, grace, loss: GuestLoss::Fails };
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
