//! StartContainer (pod contract, §7.3).

use std::time::Duration;

use hutch_agent_proto::Request;

use crate::capture::StdioConfig;
use crate::container::{ids, ContainerHandle, ContainerRef};
use crate::error::Result;
use crate::logger;
use crate::pod::{is_wrong_state, OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::ContainerState;
use crate::verb::Verb;

/// Bound for the guest's own hooks of one kind: the last one begins within 30 s and takes 10 s.
const GUEST_HOOKS: Duration = Duration::from_secs(45);
/// The guest's bound for the start of a container's program, including the hooks before it.
const INNER_HOOKS: Duration = Duration::from_secs(120);

impl Runtime {
    /// Starts a container of a running pod (P-092). A stopped one is created in the guest again first (P-094).
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState); the pod is checked first. If the guest refuses, its error,
    /// after the container was stopped; it is not deleted (P-093).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &[]))?;
    /// runtime.create_container("web", host.container("side"))?;
    /// runtime.start_container("web", "side")?;
    /// assert_eq!(runtime.status_container("web", "side")?.state, Some(hutch_runtime::State::Running));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn start_container(&self, pod: &str, container: &str) -> Result<ContainerHandle> {
        self.start_container_with(pod, container, &StdioConfig::inherit())
    }

    /// The same. A stopped container gets the standard streams of `stdio`; a ready one has those of its creation.
    pub(crate) fn start_container_with(
        &self,
        pod: &str,
        container: &str,
        stdio: &StdioConfig,
    ) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let mut container = pod.container(&container)?;
        Verb::StartContainer.check_pod(container.pod.id.as_str(), container.pod.state.state)?;
        container.config.command.stdio = stdio.clone();
        container.start()?;
        Ok(container.handle())
    }
}

impl ContainerRef<'_, '_> {
    /// Starts a container that is ready or stopped, in a pod that is running.
    pub(crate) fn start(&mut self) -> Result<()> {
        Verb::StartContainer.check_container(self.id.as_str(), self.state.state)?;
        if self.state.state != Some(State::Ready) {
            self.prepare_again()?;
        }
        let asked_before = self.state.starting;
        let next = ContainerState { starting: true, exit: None, oom_killed: false, ..self.state.clone() };
        self.put_state(next)?;
        let request = Request::StartContainer { id: self.id.to_string() };
        self.expect_hooks();
        match self.pod.sandbox.send("start-container", request) {
            Ok(()) => {}
            // An earlier attempt died between the guest's answer and the record of it.
            Err(error) if asked_before && is_wrong_state(&error) => {}
            Err(error) => {
                self.stop_after_failed_start();
                return Err(error);
            }
        }
        self.set_state(State::Running, |state| state.starting = false)
    }

    /// Creates a stopped container in the guest again, from its stored configuration (P-094).
    fn prepare_again(&mut self) -> Result<()> {
        let config = self.config.clone();
        let oci = self.pod.oci_config(&config)?;
        self.pod.store().make_dir(self.dirs.run_dir())?;
        // Leftovers of a stop that died half way.
        self.roll_back()?;
        let result = self.prepare(oci);
        if result.is_err()
            && let Err(error) = self.roll_back().and_then(|()| self.pod.sync_size())
        {
            let pod = &self.pod.id;
            logger::warn!("pod {pod}: container {}: rolling back its restart: {}", config.id, error.chain());
        }
        result
    }

    /// Gives the guest more time for requests that run hooks (P-166): its own, and those inside of the container.
    pub(crate) fn expect_hooks(&mut self) {
        let guest = self.pod.config.agent.guest_hooks.as_ref().map_or(Duration::ZERO, |_| GUEST_HOOKS);
        let own = self.config.start_container_hooks();
        let hooks = if own.is_empty() { &self.pod.config.hooks.start_container } else { &own };
        let inside: Duration = hooks
            .iter()
            .map(|hook| match hook.timeout {
                0 => INNER_HOOKS,
                seconds => Duration::from_secs(seconds.min(INNER_HOOKS.as_secs())),
            })
            .sum();
        self.pod.sandbox.hook_time = guest.saturating_add(inside.min(INNER_HOOKS));
    }

    /// P-093: the container is stopped; a failure of that is only logged.
    fn stop_after_failed_start(&mut self) {
        let how = StopMode { force: false, grace_deadline: None, on_unreachable: UnreachablePolicy::Fails };
        if let Err(error) = self.stop(how) {
            let (pod, id) = (&self.pod.id, &self.id);
            logger::warn!("pod {pod}: container {id}: stopping it after a failed start: {}", error.chain());
        }
    }
}
