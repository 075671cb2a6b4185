//! StopPod (pod contract, §6.3).
//!
//! `stop_containers` sends the first signal to every running container. Then each of them is stopped by
//! `ContainerRef::stop` (`container/stop.rs`), whose `end_process` waits until the deadline that all
//! have in common, and sends SIGKILL. `stop_guest` powers the guest off, `end_vm` ends the VMM process, `finish_stop`
//! releases what is left. Signals and waits by default: `stop_policy.rs`.

use hutch_agent_proto::{Deadline, Request};

use crate::backend::VmState;
use crate::error::{Error, Result};
use crate::hook;
use crate::id::PodId;
use crate::logger;
use crate::pod::{OpenPod, PodHandle, StopMode, UnreachablePolicy, STOP_SIGNAL};
use crate::runtime::Runtime;
use crate::state::State;

/// How to stop a pod or a container. The default is that of the commands: SIGTERM first, and SIGKILL for processes that
/// still run after [`Options::stop_timeout`](crate::Options::stop_timeout).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopOptions {
    /// Ignore every failure of the guest and do not wait for it; everything on the host is released all the same
    /// (P-085, P-111).
    pub force: bool,
    /// The signal that running containers get first, so that they can end by themselves; `None` sends none (P-108). Not
    /// sent by force, nor in a paused pod.
    pub signal: Option<i32>,
}

impl Default for StopOptions {
    fn default() -> Self {
        Self { force: false, signal: Some(STOP_SIGNAL) }
    }
}

impl StopOptions {
    /// By force.
    pub const fn forced() -> Self {
        Self { force: true, signal: None }
    }

    /// For a caller that has signalled the processes itself: the stop waits for their end first (P-108).
    pub const fn without_signal() -> Self {
        Self { force: false, signal: None }
    }

    /// Checks the options.
    pub(crate) fn check(&self) -> Result<()> {
        self.signal.map_or(Ok(()), check_signal)
    }

    /// The signal to send, if any.
    pub(crate) fn first_signal(&self) -> Option<i32> {
        self.signal.filter(|_| !self.force)
    }
}

/// Checks a signal number.
pub(crate) fn check_signal(signal: i32) -> Result<()> {
    if (1..=64).contains(&signal) {
        return Ok(());
    }
    Err(Error::invalid(format!("signal {signal}"), "is not a signal; 1 to 64 are"))
}

impl Runtime {
    /// Stops a pod: its containers in order, the guest, the machine, the network; then the poststop hooks, once (P-080,
    /// P-088). A machine or guest that is dead or does not answer does not prevent the stop (P-085). For a stopped pod,
    /// completes what an earlier stop left over (P-084).
    ///
    /// # Errors
    /// The first failure ends the call; nothing is deleted, and a second call goes on from there (P-081, P-082).
    /// [`Error::LostWrites`] after the pod was stopped, if its guest did not unmount a disk within
    /// [`Options::sync_timeout`](crate::Options::sync_timeout), and the stop was not forced.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// runtime.stop_pod("web", Default::default())?;
    /// runtime.delete_pod("web", Default::default())?;
    /// assert!(runtime.list_pods()?.is_empty());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stop_pod(&self, pod: &str, options: StopOptions) -> Result<PodHandle> {
        let id = PodId::new(pod)?;
        options.check()?;
        match OpenPod::exclusive(self, &id) {
            Ok(mut pod) => {
                pod.stop(options)?;
                Ok(PodHandle::new(&pod))
            }
            // A machine must be stoppable by force even if its records cannot be read.
            Err(Error::Store { .. }) if options.force => self.stop_damaged(&id),
            Err(error) => Err(error),
        }
    }
}

impl OpenPod<'_> {
    pub(crate) fn stop(&mut self, options: StopOptions) -> Result<()> {
        if self.state.state != State::Stopped {
            self.stop_containers(options)?;
            self.stop_guest(options.force)?;
            self.sandbox.end_vm(self.rt.options().power_off_timeout)?;
            let from = self.state.state;
            self.set_state(from, State::Stopped)?;
        }
        self.finish_stop()?;
        match self.lost_writes.take() {
            Some(container) => Err(Error::LostWrites { pod: self.object(), container }),
            None => Ok(()),
        }
    }

    fn stop_containers(&mut self, options: StopOptions) -> Result<()> {
        let force = options.force;
        // One deadline for all: a container that is reached later has had its time.
        let mut grace_deadline = Some(Deadline::after(self.rt.options().stop_timeout)).filter(|_| !force);
        // Before the signal: a paused guest does not answer.
        if self.state.state == State::Paused || self.sandbox.vm_state() == VmState::Paused {
            grace_deadline = None;
            self.wake_or_kill()?;
            self.discard_unlisted()?;
        } else if let Some(signal) = options.first_signal() {
            self.for_each_container(|container| container.send_stop_signal(signal))?;
        }
        let how = StopMode { force, grace_deadline, on_unreachable: UnreachablePolicy::KillsMachine };
        self.for_each_container(|container| match container.is_stopped() {
            true => Ok(()),
            false => container.stop(how),
        })
    }

    /// P-083: a paused machine is resumed, or killed.
    fn wake_or_kill(&mut self) -> Result<()> {
        if !self.sandbox.vm_alive() {
            return Ok(());
        }
        match self.sandbox.vm_call("resume", |vm| vm.resume()) {
            Ok(()) => Ok(()),
            Err(error) if error.is_injected() => Err(error),
            Err(error) => {
                logger::warn!("pod {}: its machine does not resume and is killed: {}", self.id, error.chain());
                self.sandbox.kill_vm()
            }
        }
    }

    /// Powers the guest off, if it can be reached.
    fn stop_guest(&mut self, force: bool) -> Result<()> {
        if !self.sandbox.vm_alive() || self.sandbox.agent_lost() {
            return Ok(());
        }
        self.expect_end(true)?;
        match self.sandbox.send("power-off", Request::PowerOff) {
            Err(error) if error.is_injected() => Err(error),
            Err(error) if force || error.is_guest_lost() => Ok(()),
            Err(error) => {
                self.expect_end(false)?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Announces to the VMM process that its machine is asked to end. A process that cannot be reached records a
    /// failure, which the rest of the stop removes.
    fn expect_end(&mut self, expected: bool) -> Result<()> {
        match self.sandbox.vm_call("expect-end", |vm| vm.expect_end(expected)) {
            Err(error) if error.is_injected() => Err(error),
            Err(error) => {
                logger::warn!("pod {}: {}", self.id, error.chain());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The steps after the end of the machine, and those that an earlier stop left undone (P-084). Idempotent.
    pub(crate) fn finish_stop(&mut self) -> Result<()> {
        self.sandbox.kill_vm()?;
        self.for_each_container(|container| {
            container.teardown_execs()?;
            container.kill_shim()?;
            container.teardown()
        })?;
        self.teardown_network()?;
        self.teardown_mounts()?;
        self.forget_machine()?;
        // An end that was asked for is not a failure, even if the machine's process recorded one.
        self.store().delete(&self.dirs.failure_record())?;
        if self.state.poststop_due {
            let state = self.hook_state("stopped");
            hook::run_logged("hook.poststop", &self.config.hooks.poststop, &state)?;
            self.state.poststop_due = false;
            self.put_state()?;
        }
        Ok(())
    }
}

impl Runtime {
    /// Ends what a pod with damaged records has on the host, as far as it can still be found.
    fn stop_damaged(&self, id: &PodId) -> Result<PodHandle> {
        let _lock = OpenPod::lock_exclusive(self, id)?;
        let mut pod = OpenPod::of_leftovers(self, id);
        pod.refuse_newer()?;
        pod.sandbox.kill_vm()?;
        for container in pod.dirs.container_dirs()? {
            pod.teardown_damaged(&container)?;
        }
        pod.teardown_network()?;
        pod.teardown_mounts()?;
        pod.forget_machine()?;
        pod.state.state = State::Stopped;
        pod.put_state()?;
        Ok(PodHandle::new(&pod))
    }
}
