//! StartContainer (§7.3).

use std::time::Duration;

use hutch_agent_proto::Request;

use crate::container::{ids, ContainerHandle};
use crate::error::{Error, Result};
use crate::logger;
use crate::pod::{OpenPod, StopMode, UnreachablePolicy};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::ContainerState;
use crate::verb::Verb;

/// How long the guest's own hooks of one kind may take: 30 s, in which a last one begins that takes 10 s.
const GUEST_HOOKS: Duration = Duration::from_secs(45);
/// How long the guest waits for a container's program, hooks before it included.
const INNER_HOOKS: Duration = Duration::from_secs(120);

impl Runtime {
    /// Starts a container of a running pod (P-092). A stopped one is created in the guest again first (P-094).
    ///
    /// # Errors
    /// [`Error::WrongState`], the pod looked at first. If the guest refuses, the guest's error, after the container was
    /// stopped; it is not deleted (P-093).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &[]))?;
    /// runtime.create_container("web", world.container("side"))?;
    /// runtime.start_container("web", "side")?;
    /// assert_eq!(runtime.status_container("web", "side")?.state, Some(hutch_runtime::State::Running));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn start_container(&self, pod: &str, container: &str) -> Result<ContainerHandle> {
        let (pod, container) = ids(pod, container)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let index = pod.find(&container)?;
        Verb::StartContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        pod.start_container(index)?;
        Ok(ContainerHandle::new(self, &pod, index))
    }
}

impl OpenPod<'_> {
    /// Starts a container that is ready or stopped, in a pod that is running.
    pub(crate) fn start_container(&mut self, index: usize) -> Result<()> {
        let container = &self.containers[index];
        Verb::StartContainer.check_container(container.id.as_str(), container.state.state)?;
        if container.state.state != Some(State::Ready) {
            self.prepare_again(index)?;
        }
        let asked_before = self.containers[index].state.starting;
        let next =
            ContainerState { starting: true, exit: None, oom_killed: false, ..self.containers[index].state.clone() };
        self.put_container(index, next)?;
        let id = self.containers[index].id.to_string();
        self.expect_hooks(index);
        match self.live.tell("start-container", Request::StartContainer { id }) {
            Ok(()) => {}
            // An earlier attempt died between the guest's answer and the record of it.
            Err(error) if asked_before && crate::pod::is_wrong_state(&error) => {}
            Err(error) => {
                self.clean_up_failed_start(index);
                return Err(error);
            }
        }
        self.set_container_state(index, State::Running, |state| state.starting = false)
    }

    /// Creates a stopped container in the guest again, from its stored configuration (P-094).
    fn prepare_again(&mut self, index: usize) -> Result<()> {
        let config = self.containers[index].config.clone();
        let oci = self.oci_config(&config)?;
        let dirs = self.containers[index].dirs.clone();
        self.store().make_dir(dirs.run_dir())?;
        // Anything a stop that died half way has left.
        self.roll_back_container(index)?;
        let result = self.prepare_container(index, oci);
        if result.is_err() {
            if let Err(error) = self.roll_back_container(index).and_then(|()| self.sync_size()) {
                logger::warn!("pod {}: container {}: taking back its restart: {}", self.id, config.id, error.chain());
            }
        }
        result
    }

    /// Lets the guest take longer for what comes with hooks (P-166): its own, and those inside of the container.
    pub(crate) fn expect_hooks(&mut self, index: usize) {
        let guest = self.config.agent.guest_hooks.as_ref().map_or(Duration::ZERO, |_| GUEST_HOOKS);
        let own = self.containers[index].config.start_container_hooks();
        let hooks = if own.is_empty() { &self.config.hooks.start_container } else { &own };
        let inside: Duration = hooks
            .iter()
            .map(|hook| match hook.timeout {
                0 => INNER_HOOKS,
                seconds => Duration::from_secs(seconds.min(INNER_HOOKS.as_secs())),
            })
            .sum();
        self.live.hook_time = guest + inside.min(INNER_HOOKS);
    }

    /// P-093: the container is stopped; a failure of that is only logged.
    fn clean_up_failed_start(&mut self, index: usize) {
        let how = StopMode { force: false, grace_deadline: None, on_unreachable: UnreachablePolicy::Fails };
        if let Err(error) = self.stop_container(index, how) {
            let id = &self.containers[index].id;
            logger::warn!(
                "pod {}: container {id}: stopping it after a failed start: {}",
                self.id,
                Error::chain(&error)
            );
        }
    }
}
