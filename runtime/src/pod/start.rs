//! StartPod (pod contract, §6.2).

use std::collections::BTreeMap;

use crate::capture::StdioConfig;
use crate::error::Result;
use crate::hook;
use crate::id::PodId;
use crate::logger;
use crate::pod::{OpenPod, PodHandle};
use crate::runtime::Runtime;
use crate::state::State;
use crate::undo::Undo;
use crate::verb::Verb;

impl Runtime {
    /// Starts a pod: its containers in order, then the poststart hooks (P-070). A stopped pod gets a new machine and
    /// network from its stored configuration first (P-072).
    ///
    /// # Errors
    /// [`Error::InvalidTransition`](crate::Error::InvalidTransition) for a running pod (P-073),
    /// [`Error::WrongState`](crate::Error::WrongState) for a paused one (P-071). The first container that fails to
    /// start ends the call with its error; earlier ones run, nothing is deleted (P-074).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.create_pod(host.pod("web", &["server"]))?;
    /// runtime.start_pod("web")?;
    /// assert_eq!(runtime.status_pod("web")?.state, Some(hutch_runtime::State::Running));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn start_pod(&self, pod: &str) -> Result<PodHandle> {
        self.start_pod_with(pod, &BTreeMap::new())
    }

    /// The same. Stopped containers get the standard streams of `stdio`, by their ids.
    pub(crate) fn start_pod_with(&self, pod: &str, stdio: &BTreeMap<String, StdioConfig>) -> Result<PodHandle> {
        let mut pod = OpenPod::exclusive(self, &PodId::new(pod)?)?;
        pod.for_each_container(|container| {
            container.config.command.stdio = stdio.get(container.id.as_str()).cloned().unwrap_or_default();
            Ok(())
        })?;
        pod.start()?;
        Ok(PodHandle::new(&pod))
    }
}

impl OpenPod<'_> {
    pub(crate) fn start(&mut self) -> Result<()> {
        let from = self.state.state;
        Verb::StartPod.check_pod(self.id.as_str(), from)?;
        if from == State::Stopped {
            self.boot_again()?;
        }
        self.set_state(from, State::Running)?;
        self.for_each_container(|container| container.start())?;
        hook::run_logged("hook.poststart", &self.config.hooks.poststart, &self.hook_state("running"))
    }

    /// A new machine for a stopped pod, without containers. On failure it is rolled back, and the pod is stopped as
    /// before.
    fn boot_again(&mut self) -> Result<()> {
        self.finish_stop()?;
        let mut undo = Undo::new();
        let booted = self.boot(&mut undo).and_then(|()| {
            self.state.poststop_due = !self.config.hooks.poststop.is_empty();
            self.state.reason = None;
            self.put_state()
        });
        if booted.is_err() {
            for step in undo.newest_first() {
                if let Err(error) = self.roll_back_boot(&step) {
                    logger::warn!("pod {}: rolling back its boot ({step:?}): {}", self.id, error.chain());
                }
            }
        }
        booted
    }
}
