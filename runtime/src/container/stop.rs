//! StopContainer (pod contract, §7.4).

use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, ExitStatus, Request, Response};

use crate::container::{ids, ContainerHandle, ContainerRef};
use crate::error::{Component, Error, Result};
use crate::logger;
use crate::pod::{guarded, is_wrong_state, OpenPod, StopMode, StopOptions, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::spec::Exit;
use crate::state::State;
use crate::store::ExitRecord;
use crate::timestamp::Timestamp;
use crate::verb::Verb;
use crate::vm_host::violation_of;

/// Bound for the guest to report the exit status of an ended process.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

impl Runtime {
    /// Stops a container: sends [`StopOptions::signal`], by default SIGTERM; waits for its process to end; kills it if
    /// it does not; releases what it holds. Without a signal, the first 10 s are only a wait (P-108). A container that
    /// was never started is not waited for. Stopping a stopped one does nothing (P-106).
    ///
    /// # Errors
    /// A failed stop deletes nothing and leaves the state as it was; the call may be repeated (P-110). With
    /// [`StopOptions::force`] failures of the guest are ignored (P-111).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// runtime.stop_container("web", "server", Default::default())?;
    /// let status = runtime.status_container("web", "server")?;
    /// assert_eq!(status.exit.unwrap().signal, Some(15));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stop_container(&self, pod: &str, container: &str, options: StopOptions) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        options.check()?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let mut container = pod.container(&container)?;
        if !container.is_stopped() {
            Verb::StopContainer.check_pod(container.pod.id.as_str(), container.pod.state.state)?;
            if let Some(signal) = options.first_signal() {
                container.send_stop_signal(signal)?;
            }
            let grace_deadline = Some(Deadline::after(self.options().stop_timeout));
            let on_unreachable = UnreachablePolicy::Fails;
            container.stop_in_any_pod(StopMode { force: options.force, grace_deadline, on_unreachable })?;
        }
        Ok(container.handle())
    }
}

impl ContainerRef<'_, '_> {
    /// As [`ContainerRef::stop`]; the vCPUs of a paused pod run meanwhile (P-107).
    pub(crate) fn stop_in_any_pod(&mut self, how: StopMode) -> Result<()> {
        let paused = self.pod.state.state == State::Paused;
        self.with_vcpus_running(|container| {
            // No call can have signalled the process in a paused pod, so there is nothing to wait for.
            let grace_deadline = how.grace_deadline.filter(|_| !paused);
            container.stop(StopMode { grace_deadline, ..how })
        })
    }

    /// Stops a container that is not stopped. Whether it fails or not, the shim is dead afterwards.
    pub(crate) fn stop(&mut self, how: StopMode) -> Result<()> {
        let result = self.stop_steps(how);
        if let Err(error) = self.kill_shim() {
            logger::warn!("pod {}: {}", self.pod.id, error.chain());
        }
        result
    }

    fn stop_steps(&mut self, how: StopMode) -> Result<()> {
        // Without a machine there is no guest to wait for.
        let how = StopMode { force: how.force || !self.pod.sandbox.vm_alive(), ..how };
        // A machine that is gone has lost them already, which is not the doing of this call.
        let mut unwritten = self.may_hold_writes() && self.pod.sandbox.vm_alive();
        self.end_process(&how)?;
        let exit = self.exit();
        let oom_killed = self.was_oom_killed();
        if self.pod.sandbox.vm_alive() {
            self.expect_hooks();
            let request = Request::RemoveContainer { id: self.id.to_string(), force: true };
            let removed = self.pod.sandbox.send_unless_gone("remove-container", request);
            self.pod.on_guest_error(removed, &how)?;
        }
        if self.pod.sandbox.vm_alive() {
            let unmounted = self.unmount_disks();
            unwritten &= unmounted.is_err();
            self.pod.on_guest_error(unmounted, &how)?;
        }
        if unwritten && !how.force {
            let id = self.id.to_string();
            self.pod.lost_writes.get_or_insert(id);
        }
        self.teardown_execs()?;
        self.kill_shim()?;
        self.teardown()?;
        self.set_state(State::Stopped, |state| {
            state.before_pause = None;
            state.starting = false;
            state.exit = state.exit.take().or(exit);
            state.oom_killed |= oom_killed;
        })?;
        match self.pod.sync_size() {
            Err(error) if how.force || error.is_guest_lost() => {
                logger::warn!("pod {}: {}", self.pod.id, error.chain());
                Ok(())
            }
            other => other,
        }
    }

    /// Waits for the shim until the deadline, then makes sure that no guest process of the container is left: SIGKILL to
    /// all of them (P-108, P-109). In the guest, `Cgroup::signal` (`runtime/agent/oci/src/cgroup.rs`) writes
    /// `cgroup.kill`.
    fn end_process(&mut self, how: &StopMode) -> Result<()> {
        let never_started = self.state.state == Some(State::Ready) && !self.state.starting;
        let deadline = how.grace_deadline.filter(|_| !never_started && !how.force);
        let mut ended = !self.shim().is_some();
        if let (false, Some(deadline)) = (ended, deadline) {
            ended = self.wait_shim(deadline.saturating_duration_since(Instant::now()))?;
        }
        if self.pod.sandbox.vm_alive() {
            let kill = Request::KillContainer { id: self.id.to_string(), signal: libc::SIGKILL, all: true };
            match self.pod.sandbox.send_unless_gone("kill-container", kill) {
                // It has ended already.
                Err(error) if is_wrong_state(&error) => {}
                other => self.pod.on_guest_error(other, how)?,
            }
        }
        if !ended && !how.force && !self.pod.sandbox.agent_lost() {
            let after = self.pod.rt.options().kill_timeout;
            if !self.wait_shim(after)? {
                let what = format!("container {}: its process to end after SIGKILL", self.id);
                return Err(Error::Timeout { component: None, what, after });
            }
        }
        Ok(())
    }

    fn wait_shim(&self, timeout: Duration) -> Result<bool> {
        let (shims, process) = (&self.pod.sandbox.backends.shims, self.shim());
        guarded(Component::Shim, "wait-end", || shims.wait_end(process, timeout))
    }

    /// How the init process ended: from its shim's record, otherwise from the guest.
    fn exit(&mut self) -> Option<Exit> {
        let process = self.process.clone()?;
        let noted: Option<ExitRecord> = self.pod.store().get(&self.dirs.exit_record()).unwrap_or_else(|e| {
            logger::warn!("pod {}: {}", self.pod.id, e.chain());
            None
        });
        if let Some(noted) = noted.filter(|noted| noted.token == process.token && noted.status.is_some()) {
            return Some(noted.to_exit());
        }
        let violation = violation_of(&self.pod.dirs.vmm_log(), &process.token);
        let violation = violation.map(|reason| format!("its shim has ended: {reason}"));
        let sandbox = &mut self.pod.sandbox;
        if sandbox.vm_alive() && !sandbox.agent_lost() {
            let request = Request::WaitProcess { token: process.token };
            if let Ok(Some(Response::Exited(status))) =
                sandbox.call_with_timeout("wait-process", request, EXIT_STATUS_TIMEOUT)
            {
                return Some(Exit { reason: violation, ..Exit::reported(status, Timestamp::now()) });
            }
        }
        if self.state.state == Some(State::Ready) {
            return Some(Exit::reported(ExitStatus::Signal(libc::SIGKILL), Timestamp::now()));
        }
        let reason = violation.unwrap_or_else(|| match self.pod.sandbox.vm_alive() {
            true => "the guest did not report how it ended".to_owned(),
            false => "the virtual machine ended".to_owned(),
        });
        Some(Exit::unknown(reason, Timestamp::now()))
    }

    fn was_oom_killed(&mut self) -> bool {
        if !self.pod.sandbox.vm_alive() || self.pod.sandbox.agent_lost() {
            return false;
        }
        let request = Request::Stats { id: self.id.to_string() };
        matches!(self.pod.sandbox.call("stats", request), Ok(Response::Stats(stats)) if stats.oom_kills > 0)
    }
}

impl OpenPod<'_> {
    /// The consequence of a failure of the guest for this stop (P-085, P-111).
    fn on_guest_error(&mut self, result: Result<()>, how: &StopMode) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if how.force {
            logger::warn!("pod {}: ignored by a forced stop: {}", self.id, error.chain());
            return Ok(());
        }
        if error.is_guest_lost() && how.on_unreachable == UnreachablePolicy::KillsMachine {
            logger::warn!("pod {}: the guest does not answer, its machine is killed: {}", self.id, error.chain());
            return self.sandbox.kill_vm();
        }
        Err(error)
    }
}
