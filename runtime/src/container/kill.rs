//! KillContainer (§7.7).

use hutch_agent_proto::Request;

use crate::container::ids;
use crate::error::{Error, Result};
use crate::logger;
use crate::pod::{is_wrong_state, OpenPod};
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// Sends a signal to a container's init process; `all`: to all its processes (P-130). Changes no state and never
    /// escalates (P-132). A process that has ended already is success.
    ///
    /// # Errors
    /// [`Error::WrongState`] in a paused pod or on a stopped container. SIGKILL never fails once the container was
    /// found, even if its machine is dead (P-133), and SIGTERM to a stopped container is silent success (P-134).
    ///
    /// # Examples
    /// See [`Runtime::stop_container`].
    pub fn kill_container(&self, pod: &str, container: &str, signal: i32, all: bool) -> Result<()> {
        let (pod, container) = ids(pod, container)?;
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(format!("signal {signal}"), "is no signal; 1 to 64 are"));
        }
        let mut pod = OpenPod::exclusive(self, &pod)?;
        let index = pod.find(&container)?;
        let state = pod.containers[index].state.state;
        if state == Some(State::Stopped) && matches!(signal, libc::SIGKILL | libc::SIGTERM) {
            return Ok(());
        }
        if signal == libc::SIGKILL {
            pod.sigkill(index, all);
            return Ok(());
        }
        Verb::KillContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        Verb::KillContainer.check_container(container.as_str(), state)?;
        match pod.send_signal(index, signal, all) {
            Err(error) if is_wrong_state(&error) => Ok(()),
            other => other,
        }
    }
}

impl OpenPod<'_> {
    fn send_signal(&mut self, index: usize, signal: i32, all: bool) -> Result<()> {
        let id = self.containers[index].id.to_string();
        self.live.tell_gone("kill-container", Request::KillContainer { id, signal, all })
    }

    /// In a paused pod the vCPUs run for as long as the signal takes. Where the guest cannot be reached, the shim
    /// dies, so that the caller sees the container end and can clean up (P-133).
    fn sigkill(&mut self, index: usize, all: bool) {
        let reached = self.live.vm_alive();
        let result = match reached {
            true => self.with_vcpus_running(|pod| pod.send_signal(index, libc::SIGKILL, all)),
            false => Ok(()),
        };
        let lost = match result {
            Ok(()) => !reached,
            Err(error) if is_wrong_state(&error) => false,
            Err(error) => {
                logger::warn!("pod {}: SIGKILL: {}", self.id, error.chain());
                true
            }
        };
        if lost {
            if let Err(error) = self.kill_shim(self.containers[index].shim()) {
                logger::warn!("pod {}: SIGKILL: {}", self.id, error.chain());
            }
        }
    }
}
