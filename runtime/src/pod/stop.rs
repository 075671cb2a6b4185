//! StopPod (§6.3).

use std::time::Instant;

use hutch_agent_proto::Request;

use crate::backend::VmState;
use crate::error::{Error, Result};
use crate::hook;
use crate::id::PodId;
use crate::logger;
use crate::pod::{OpenPod, PodHandle, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;

/// How to stop a pod or a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Ignore every failure of the guest and do not wait for it; everything on the host is released all the same
    /// (P-085, P-111).
    pub force: bool,
}

impl Runtime {
    /// Stops a pod: its containers in order, the guest, the machine, the network; then the poststop hooks, once (P-080,
    /// P-088). A machine or guest that is dead or does not answer is no obstacle (P-085). For a stopped pod, completes
    /// what an earlier stop left over (P-084).
    ///
    /// # Errors
    /// The first failure ends the call; nothing is deleted, and a second call goes on from there (P-081, P-082).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # use hutch_runtime::StopOptions;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &["server"]))?;
    /// runtime.kill_container("web", "server", 15, true)?;
    /// runtime.stop_pod("web", StopOptions::default())?;
    /// runtime.delete_pod("web", Default::default())?;
    /// assert!(runtime.list_pods()?.is_empty());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stop_pod(&self, pod: &str, options: StopOptions) -> Result<PodHandle> {
        let id = PodId::new(pod)?;
        match OpenPod::exclusive(self, &id) {
            Ok(mut pod) => {
                pod.stop(options.force)?;
                Ok(PodHandle::new(self, &pod))
            }
            // Records that cannot be read must not keep a machine alive that an operator wants gone.
            Err(Error::Store { .. }) if options.force => self.stop_damaged(&id),
            Err(error) => Err(error),
        }
    }
}

impl OpenPod<'_> {
    pub(crate) fn stop(&mut self, force: bool) -> Result<()> {
        if self.state.state != State::Stopped {
            self.stop_containers(force)?;
            self.stop_guest(force)?;
            self.live.end_vm(self.rt.options().power_off_timeout)?;
            let from = self.state.state;
            self.set_state(from, State::Stopped)?;
        }
        self.finish_stop()
    }

    fn stop_containers(&mut self, force: bool) -> Result<()> {
        // One wait for all: a container that is reached later has had its time.
        let mut grace = Some(Instant::now() + self.rt.options().stop_timeout).filter(|_| !force);
        if self.state.state == State::Paused || self.live.vm_state() == VmState::Paused {
            grace = None;
            self.wake_or_kill()?;
        }
        for index in 0..self.containers.len() {
            if !self.containers[index].is_stopped() {
                self.stop_container(
                    index,
                    StopMode { force, grace_deadline: grace, on_unreachable: UnreachablePolicy::KillsMachine },
                )?;
            }
        }
        Ok(())
    }

    /// P-083: a paused machine is resumed, or killed.
    fn wake_or_kill(&mut self) -> Result<()> {
        if !self.live.vm_alive() {
            return Ok(());
        }
        match self.live.vm_call("resume", |vm| vm.resume()) {
            Ok(()) => Ok(()),
            Err(error) if error.is_injected() => Err(error),
            Err(error) => {
                logger::warn!("pod {}: its machine does not resume and is killed: {}", self.id, error.chain());
                self.live.kill_vm()
            }
        }
    }

    /// The guest powers off, if it can be asked.
    fn stop_guest(&mut self, force: bool) -> Result<()> {
        if !self.live.vm_alive() || self.live.agent_lost() {
            return Ok(());
        }
        self.expect_end(true)?;
        match self.live.tell("power-off", Request::PowerOff) {
            Err(error) if error.is_injected() => Err(error),
            Err(error) if force || error.is_guest_lost() => Ok(()),
            Err(error) => {
                self.expect_end(false)?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Tells the VMM process whether its machine is asked to end. One that cannot be told notes a failure, which the
    /// rest of the stop removes.
    fn expect_end(&mut self, expected: bool) -> Result<()> {
        match self.live.vm_call("expect-end", |vm| vm.expect_end(expected)) {
            Err(error) if error.is_injected() => Err(error),
            Err(error) => {
                logger::warn!("pod {}: {}", self.id, error.chain());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What follows the end of the machine, and whatever an earlier stop has left over (P-084). Idempotent.
    pub(crate) fn finish_stop(&mut self) -> Result<()> {
        self.live.kill_vm()?;
        for index in 0..self.containers.len() {
            self.teardown_execs(index)?;
            self.kill_shim(self.containers[index].shim())?;
            self.teardown_container(index)?;
        }
        self.teardown_network()?;
        self.teardown_mounts()?;
        self.forget_machine()?;
        // An end that was asked for is no failure, whatever the machine's process thought of it.
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
        pod.live.kill_vm()?;
        for container in pod.dirs.container_dirs()? {
            pod.teardown_damaged(&container)?;
        }
        pod.teardown_network()?;
        pod.teardown_mounts()?;
        pod.forget_machine()?;
        pod.state.state = State::Stopped;
        pod.put_state()?;
        Ok(PodHandle::new(self, &pod))
    }
}
