//! The reconciling stop: a call that asks for the status of a container whose shim is dead stops that container (pod
//! contract, §7.5).
//!
//! When a VMM process dies, for example by SIGKILL, its shims notice first: `stand` of `shim/verb.rs` fails,
//! `note_failure` there records that for the pod, and the shim exits with 255. The next status, list or wait of any
//! process calls `detect_dead` and `reconcile` here, which record the failure if no shim has, and stop the containers.
//! The machine's record, network and the pod's own mounts stay until `finish_stop` of `stop.rs`, the last part of StopPod.

use std::time::{Duration, Instant};

use crate::container::OpenContainer;
use crate::error::Result;
use crate::fault;
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::{FailureRecord, LockMode, ProcessRecord};
use crate::timestamp::Timestamp;
use crate::vm_host::reason_of_end;

/// Bound for a machine that has recorded its failure to end.
const FAILING_MACHINE: Duration = Duration::from_secs(1);

/// Deaths that a reader found. Noting them needs the exclusive lock.
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
    /// Finds containers whose shim is dead (P-116), all of them or `only` one, and a dead machine.
    pub(crate) fn detect_dead(&self, only: Option<&ContainerId>) -> Deaths {
        self.await_end_of_a_failing_machine();
        let mut deaths = Deaths::default();
        for container in self.containers() {
            if only.is_some_and(|only| *only != container.id) || !self.is_dead(container) {
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

    /// A dying VMM writes failure.json before it exits. Once that exists, no call reports the machine as running: this
    /// waits briefly for the process to end.
    fn await_end_of_a_failing_machine(&self) {
        let Some(record) = self.sandbox.record() else { return };
        if self.state.state == State::Stopped || !self.sandbox.vm_alive() || !self.failure_noted() {
            return;
        }
        match self.sandbox.backends.vm.wait_end(record, FAILING_MACHINE) {
            Ok(_) => {}
            Err(error) => logger::warn!("pod {}: {error}", self.id),
        }
    }

    /// Whether the pod should have a machine and has none.
    pub(crate) fn machine_died(&self) -> bool {
        self.state.state != State::Stopped && !self.sandbox.vm_alive()
    }

    /// Whether a container in `ready`, `running` or `paused` has a dead shim, or a dead machine, which its shim notices
    /// a moment later. Never true without a shim (P-120).
    fn is_dead(&self, container: &OpenContainer) -> bool {
        let lives = matches!(container.state.state, Some(State::Ready | State::Running | State::Paused));
        let shim = container.shim();
        lives && shim.is_some() && !(self.sandbox.vm_alive() && self.sandbox.backends.shims.is_alive(shim))
    }
}

impl Runtime {
    /// Stops the containers that were found dead, one after another (P-119), under the exclusive lock and only if they
    /// still are dead (P-025). A failure does not fail the status call: the state stays and the next call tries again
    /// (P-117).
    pub(crate) fn reconcile(&self, id: &PodId, deaths: &Deaths, timeout: Duration, until: Instant) {
        if let Err(error) = self.try_reconcile(id, deaths, timeout, until)
            && !error.is_not_found()
        {
            logger::warn!("pod {id}: noting what has ended: {}", error.chain());
        }
    }

    fn try_reconcile(&self, id: &PodId, deaths: &Deaths, timeout: Duration, until: Instant) -> Result<()> {
        // Between the two locks another call may change everything.
        fault::point("reconcile.unlocked")?;
        let Some(lock) = self.store().lock(id, LockMode::Exclusive, timeout)? else { return Ok(()) };
        let mut pod = OpenPod::load(self, id)?;
        pod.lock = Some(lock);
        if pod.state.pausing {
            pod.take_pause_back();
        }
        if deaths.machine_died && pod.machine_died() {
            pod.note_failure()?;
        }
        for (container, process) in &deaths.dead {
            match pod.find(container) {
                Ok(found) if found.process.as_ref() == Some(process) && pod.is_dead(found) => {}
                _ => continue,
            }
            let left = until.saturating_duration_since(Instant::now());
            // A container that the guest has no time for is shown as its records have it, and stopped by a later call.
            if pod.sandbox.vm_alive() && (left.is_zero() || pod.sandbox.agent_lost()) {
                continue;
            }
            pod.sandbox.be_quick(left);
            let grace_deadline = Some(Instant::now());
            let how = StopMode { force: false, grace_deadline, on_unreachable: UnreachablePolicy::Fails };
            if let Err(error) = pod.container(container)?.stop_in_any_pod(how) {
                logger::warn!("pod {id}: container {container} has ended: {}", error.chain());
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
        let socket = self.sandbox.record().map(|record| record.socket.clone()).unwrap_or_default();
        let reason = reason_of_end(&self.dirs.vmm_log(), &socket);
        self.store().put(&self.dirs.failure_record(), &FailureRecord { reason, at: Timestamp::now() })
    }
}
