//! The policy of `hutch pod stop` and `hutch container stop`: send a signal, wait, then kill. The runtime waits and
//! kills; this module sends the signal.

use hutch_runtime::{Runtime, State, StopOptions};

use crate::args::pod::StopFlags;
use crate::failure::Failure;

/// How to stop, from the command line.
pub(super) struct StopPolicy {
    force: bool,
    /// Signal to send first. `None` with `--signal none` or `--force`.
    signal: Option<i32>,
}

impl StopPolicy {
    pub(super) fn new(flags: &StopFlags) -> Result<Self, Failure> {
        let signal = match flags.signal.as_deref() {
            _ if flags.force => None,
            Some("none") => None,
            signal => Some(hutch_runtime::spec::parse_signal(signal.unwrap_or("TERM"))?),
        };
        Ok(Self { force: flags.force, signal })
    }

    /// Sends the signal to the running containers of a pod, or only to `container`, and returns the options for the
    /// runtime's stop. A container that does not get the signal is killed by that stop.
    pub(super) fn signal_and_options(&self, runtime: &Runtime, pod: &str, container: Option<&str>) -> StopOptions {
        if let Some(signal) = self.signal {
            for id in running_containers(runtime, pod, container) {
                if let Err(error) = runtime.kill_container(pod, &id, signal, false) {
                    log::info!("container {id}: {}", error.chain());
                }
            }
        }
        StopOptions { force: self.force }
    }
}

fn running_containers(runtime: &Runtime, pod: &str, container: Option<&str>) -> Vec<String> {
    let running = Some(State::Running);
    match container {
        Some(id) => {
            let is_running = runtime.status_container(pod, id).is_ok_and(|status| status.state == running);
            is_running.then(|| id.to_owned()).into_iter().collect()
        }
        None => match runtime.status_pod(pod) {
            Ok(status) if status.state == running => {
                status.containers.into_iter().filter(|c| c.state == running).map(|c| c.id).collect()
            }
            _ => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_term_unless_the_flags_say_otherwise() {
        let signal = |signal: Option<&str>, force| {
            let flags = StopFlags { force, signal: signal.map(str::to_owned), timeout: None };
            StopPolicy::new(&flags).map(|policy| policy.signal)
        };
        assert_eq!(signal(None, false).unwrap(), Some(libc::SIGTERM));
        assert_eq!(signal(Some("INT"), false).unwrap(), Some(libc::SIGINT));
        assert_eq!(signal(Some("none"), false).unwrap(), None);
        assert_eq!(signal(None, true).unwrap(), None);
        assert!(signal(Some("nonsense"), false).is_err());
    }
}
