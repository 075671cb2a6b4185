//! StopContainer (§7.4).

use std::time::{Duration, Instant};

use hutch_agent_proto::{ExitStatus, Request, Response};

use crate::backend::VmState;
use crate::container::{ids, ContainerHandle};
use crate::error::{Component, Error, Result};
use crate::logger;
use crate::pod::{guarded, is_wrong_state, OpenPod, StopMode, StopOptions, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::spec::Exit;
use crate::state::State;
use crate::store::ExitRecord;
use crate::timestamp::Timestamp;
use crate::verb::Verb;

/// How long the guest may take to tell how an ended process ended.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

impl Runtime {
    /// Stops a container: waits for its process to end, kills it if it does not, releases what it holds. Sends no
    /// signal of its own for the first 10 s (P-108); a container that was never started is not waited for. Stopping a
    /// stopped one does nothing (P-106).
    ///
    /// # Errors
    /// A failed stop deletes nothing and leaves the state as it was; the call may be repeated (P-110). With
    /// [`StopOptions::force`] failures of the guest are ignored (P-111).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # use hutch_runtime::StopOptions;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &["server"]))?;
    /// runtime.kill_container("web", "server", 15, false)?;
    /// runtime.stop_container("web", "server", StopOptions::default())?;
    /// let status = runtime.status_container("web", "server")?;
    /// assert_eq!(status.exit.unwrap().signal, Some(15));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn stop_container(&self, pod: &str, container: &str, options: StopOptions) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let index = pod.find(&container)?;
        if !pod.containers[index].is_stopped() {
            Verb::StopContainer.check_pod(pod.id.as_str(), pod.state.state)?;
            let grace = Some(Instant::now() + self.options().stop_timeout);
            let how =
                StopMode { force: options.force, grace_deadline: grace, on_unreachable: UnreachablePolicy::Fails };
            pod.stop_container_in_any_pod(index, how)?;
        }
        Ok(ContainerHandle::new(self, &pod, index))
    }
}

impl OpenPod<'_> {
    /// As [`OpenPod::stop_container`]; the vCPUs of a paused pod run for that long (P-107).
    pub(crate) fn stop_container_in_any_pod(&mut self, index: usize, how: StopMode) -> Result<()> {
        let paused = self.state.state == State::Paused;
        self.with_vcpus_running(|pod| {
            // Nobody could have killed it in a paused pod, so there is nothing to wait for.
            let grace = how.grace_deadline.filter(|_| !paused);
            pod.stop_container(index, StopMode { grace_deadline: grace, ..how })
        })
    }

    /// Runs `job`; a machine whose vCPUs are held gets them back for that long.
    pub(crate) fn with_vcpus_running<T>(&mut self, job: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let held = self.state.state == State::Paused && self.live.vm_state() == VmState::Paused;
        if !held {
            return job(self);
        }
        self.live.vm_call("resume", |vm| vm.resume())?;
        let result = job(self);
        let paused = self.live.vm_call("pause", |vm| vm.pause());
        let result = result?;
        paused?;
        Ok(result)
    }

    /// Stops a container that is not stopped. Whatever the outcome, its shim is dead afterwards.
    pub(crate) fn stop_container(&mut self, index: usize, how: StopMode) -> Result<()> {
        let result = self.stop_steps(index, how);
        if let Err(error) = self.kill_shim(self.containers[index].shim()) {
            logger::warn!("pod {}: {}", self.id, error.chain());
        }
        result
    }

    fn stop_steps(&mut self, index: usize, how: StopMode) -> Result<()> {
        let mut how = how;
        if !self.live.vm_alive() {
            // Nobody is left who could be asked.
            how.force = true;
        }
        self.end_process(index, &how)?;
        let exit = self.exit_of(index);
        let oom_killed = self.was_oom_killed(index);
        let id = self.containers[index].id.to_string();
        if self.live.vm_alive() {
            self.expect_hooks(index);
            let removed = self.live.tell_gone("remove-container", Request::RemoveContainer { id, force: true });
            self.on_guest_error(removed, &how)?;
        }
        if self.live.vm_alive() {
            let unmounted = self.unmount_disks(index);
            self.on_guest_error(unmounted, &how)?;
        }
        self.teardown_execs(index)?;
        self.kill_shim(self.containers[index].shim())?;
        self.teardown_container(index)?;
        self.set_container_state(index, State::Stopped, |state| {
            state.before_pause = None;
            state.starting = false;
            state.exit = state.exit.take().or(exit);
            state.oom_killed |= oom_killed;
        })?;
        match self.sync_size() {
            Err(error) if how.force || error.is_guest_lost() => {
                logger::warn!("pod {}: {}", self.id, error.chain());
                Ok(())
            }
            other => other,
        }
    }

    /// Waits for the shim, then makes sure that no guest process of the container is left (P-108, P-109).
    fn end_process(&mut self, index: usize, how: &StopMode) -> Result<()> {
        let container = &self.containers[index];
        let shim = container.shim();
        let never_started = container.state.state == Some(State::Ready) && !container.state.starting;
        let grace = how.grace_deadline.filter(|_| !never_started && !how.force);
        let mut ended = !shim.is_some();
        if let (false, Some(grace)) = (ended, grace) {
            ended = self.wait_shim(index, grace.saturating_duration_since(Instant::now()))?;
        }
        if self.live.vm_alive() {
            let id = self.containers[index].id.to_string();
            let kill = Request::KillContainer { id, signal: libc::SIGKILL, all: true };
            match self.live.tell_gone("kill-container", kill) {
                // It has ended already.
                Err(error) if is_wrong_state(&error) => {}
                other => self.on_guest_error(other, how)?,
            }
        }
        if !ended && !how.force && !self.live.agent_lost() {
            let timeout = self.rt.options().kill_timeout;
            if !self.wait_shim(index, timeout)? {
                let what = format!("container {}: its process to end after SIGKILL", self.containers[index].id);
                return Err(Error::Timeout { component: None, what, after: timeout });
            }
        }
        Ok(())
    }

    fn wait_shim(&self, index: usize, timeout: Duration) -> Result<bool> {
        let shims = &self.live.backends.shims;
        let process = self.containers[index].shim();
        guarded(Component::Shim, "wait-end", || shims.wait_end(process, timeout))
    }

    /// What a failure of the guest means for this stop (P-085, P-111).
    fn on_guest_error(&mut self, result: Result<()>, how: &StopMode) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if how.force {
            logger::warn!("pod {}: ignored by a forced stop: {}", self.id, error.chain());
            return Ok(());
        }
        if error.is_guest_lost() && how.on_unreachable == UnreachablePolicy::KillsMachine {
            logger::warn!("pod {}: the guest does not answer, its machine is killed: {}", self.id, error.chain());
            return self.live.kill_vm();
        }
        Err(error)
    }

    /// How the init process ended: as its shim has noted, else as the guest tells.
    fn exit_of(&mut self, index: usize) -> Option<Exit> {
        let container = &self.containers[index];
        let process = container.process.clone()?;
        let noted: Option<ExitRecord> = self.store().get(&container.dirs.exit_record()).unwrap_or_else(|e| {
            logger::warn!("pod {}: {}", self.id, e.chain());
            None
        });
        if let Some(noted) = noted.filter(|noted| noted.token == process.token && noted.status.is_some()) {
            return Some(noted.to_exit());
        }
        if self.live.vm_alive() && !self.live.agent_lost() {
            let request = Request::WaitProcess { token: process.token };
            if let Ok(Some(Response::Exited(status))) =
                self.live.ask_patiently("wait-process", request, EXIT_STATUS_TIMEOUT)
            {
                return Some(Exit::reported(status, Timestamp::now()));
            }
        }
        if self.containers[index].state.state == Some(State::Ready) {
            return Some(Exit::reported(ExitStatus::Signal(libc::SIGKILL), Timestamp::now()));
        }
        let reason = match self.live.vm_alive() {
            true => "the guest did not tell how it ended",
            false => "the virtual machine ended",
        };
        Some(Exit::unknown(reason, Timestamp::now()))
    }

    fn was_oom_killed(&mut self, index: usize) -> bool {
        if !self.live.vm_alive() || self.live.agent_lost() {
            return false;
        }
        let id = self.containers[index].id.to_string();
        matches!(self.live.ask("stats", Request::Stats { id }), Ok(Response::Stats(stats)) if stats.oom_kills > 0)
    }
}
