//! KillContainer (pod contract, §7.7).

use hutch_agent_proto::Request;

use crate::container::{ids, ContainerRef};
use crate::error::Result;
use crate::logger;
use crate::pod::{check_signal, is_wrong_state, OpenPod};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// Sends a signal to a container's init process; `all`: to all its processes (P-130). Changes no state and never
    /// escalates (P-132). A process that has ended already is success.
    ///
    /// # Errors
    /// [`Error::WrongState`](crate::Error::WrongState) in a paused pod or on a stopped container. SIGKILL never fails
    /// once the container was found, even if its machine is dead (P-133), and SIGTERM to a stopped container is silent
    /// success (P-134).
    ///
    /// # Examples
    /// See [`Runtime::stop_container`].
    pub fn kill_container(&self, pod: &str, container: &str, signal: i32, all: bool) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        check_signal(signal)?;
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let mut container = pod.container(&container)?;
        let state = container.state.state;
        if state == Some(State::Stopped) && matches!(signal, libc::SIGKILL | libc::SIGTERM) {
            return Ok(());
        }
        if signal == libc::SIGKILL {
            container.sigkill(all);
            return Ok(());
        }
        Verb::KillContainer.check_pod(container.pod.id.as_str(), container.pod.state.state)?;
        Verb::KillContainer.check_container(container.id.as_str(), state)?;
        match container.send_signal(signal, all) {
            Err(error) if is_wrong_state(&error) => Ok(()),
            other => other,
        }
    }
}

impl ContainerRef<'_, '_> {
    fn send_signal(&mut self, signal: i32, all: bool) -> Result<()> {
        let request = Request::KillContainer { id: self.id.to_string(), signal, all };
        self.pod.sandbox.send_unless_gone("kill-container", request)
    }

    /// Sends the signal that a stop begins with. Only a running container of a running pod gets one. A failure is
    /// logged: the stop kills what does not end by itself.
    pub(crate) fn send_stop_signal(&mut self, signal: i32) -> Result<()> {
        let runs = self.pod.state.state == State::Running && self.state.state == Some(State::Running);
        if !runs || !self.pod.sandbox.vm_alive() {
            return Ok(());
        }
        match self.send_signal(signal, false) {
            Err(error) if error.is_injected() => Err(error),
            Err(error) if !is_wrong_state(&error) => {
                logger::warn!("pod {}: container {}: signal {signal}: {}", self.pod.id, self.id, error.chain());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// In a paused pod the vCPUs run while the signal is sent. If the guest cannot be reached, the shim is killed, so
    /// that the caller sees the container end and can clean up (P-133).
    fn sigkill(&mut self, all: bool) {
        let reached = self.pod.sandbox.vm_alive();
        let result = match reached {
            true => self.with_vcpus_running(|container| container.send_signal(libc::SIGKILL, all)),
            false => Ok(()),
        };
        let lost = match result {
            Ok(()) => !reached,
            Err(error) if is_wrong_state(&error) => false,
            Err(error) => {
                logger::warn!("pod {}: SIGKILL: {}", self.pod.id, error.chain());
                true
            }
        };
        if lost && let Err(error) = self.kill_shim() {
            logger::warn!("pod {}: SIGKILL: {}", self.pod.id, error.chain());
        }
    }
}
