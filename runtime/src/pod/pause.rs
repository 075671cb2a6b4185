//! PausePod and ResumePod (pod contract, §7.8).

use crate::container::ContainerRef;
use crate::error::{Error, Object, Result};
use crate::id::PodId;
use crate::logger;
use crate::pod::{OpenPod, PodHandle};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::ContainerState;
use crate::verb::Verb;

impl Runtime {
    /// Pauses a running pod: its vCPUs stop, its containers and then the pod become `paused` (P-140).
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs (P-141). If the machine refuses, no state changes.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// runtime.pause_pod("web")?;
    /// runtime.resume_pod("web")?;
    /// assert_eq!(runtime.status_pod("web")?.state, Some(hutch_runtime::State::Running));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn pause_pod(&self, pod: &str) -> Result<PodHandle> {
        let mut pod = OpenPod::exclusive(self, &PodId::new(pod)?)?;
        Verb::PausePod.check_pod(pod.id.as_str(), pod.state.state)?;
        // On record before the vCPUs stop: a call that dies here would leave a paused guest that counts as running, and
        // every later call would wait for it.
        pod.state.pausing = true;
        let paused = pod
            .put_state()
            .and_then(|()| pod.sandbox.vm_call("pause", |vm| vm.pause()))
            .and_then(|()| pod.for_each_container(|container| container.pause()))
            .and_then(|()| pod.set_state(State::Running, State::Paused));
        if let Err(error) = paused {
            pod.take_pause_back();
            return Err(error);
        }
        Ok(PodHandle::new(&pod))
    }

    /// Resumes a paused pod. Every container returns to its state before the pause (P-142).
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is paused (P-141). If the machine refuses, no state changes.
    ///
    /// # Examples
    /// See [`Runtime::pause_pod`].
    pub fn resume_pod(&self, pod: &str) -> Result<PodHandle> {
        let mut pod = OpenPod::exclusive(self, &PodId::new(pod)?)?;
        Verb::ResumePod.check_pod(pod.id.as_str(), pod.state.state)?;
        pod.sandbox.vm_call("resume", |vm| vm.resume())?;
        pod.for_each_container(|container| container.unpause())?;
        pod.set_state(State::Paused, State::Running)?;
        Ok(PodHandle::new(&pod))
    }
}

impl OpenPod<'_> {
    /// Lets a machine go on whose pause failed, could not be recorded, or was cut short: the records would say that it
    /// runs, and nothing would ever resume it. A failure here is left to the next call.
    pub(crate) fn take_pause_back(&mut self) {
        let resumed = match self.sandbox.vm_alive() {
            true => self.sandbox.vm_call("resume", |vm| vm.resume()),
            false => Ok(()),
        };
        let restored = self.for_each_container(|container| {
            // A write may fail after it has replaced the record.
            container.state = container.pod.store().get(&container.dirs.state_record())?.unwrap_or_default();
            container.unpause()
        });
        self.state.pausing = resumed.is_err() || restored.is_err();
        for error in [resumed, restored, self.put_state()].into_iter().filter_map(Result::err) {
            logger::warn!("pod {}: taking its pause back: {}", self.id, error.chain());
        }
    }
}

impl ContainerRef<'_, '_> {
    /// Forces the container to `paused`, whatever the state machine says (P-015). A stopped one stays stopped.
    fn pause(&mut self) -> Result<()> {
        let state = self.state.clone();
        match state.state {
            None | Some(State::Stopped | State::Paused) => Ok(()),
            Some(State::Ready | State::Running) => {
                self.put_state(ContainerState { before_pause: state.state, state: Some(State::Paused), ..state })
            }
        }
    }

    fn unpause(&mut self) -> Result<()> {
        let state = self.state.clone();
        if state.state != Some(State::Paused) {
            return Ok(());
        }
        let before = state.before_pause.unwrap_or(State::Running);
        if before == State::Paused {
            let object = Object::Container(self.id.to_string());
            return Err(Error::InvalidTransition { object, from: before, expected: before, to: before });
        }
        self.put_state(ContainerState { before_pause: None, state: Some(before), ..state })
    }
}
