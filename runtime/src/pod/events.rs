//! Events of a pod: ended processes, processes killed because memory ran out, the machine's end.

use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, Event, ExitStatus};
use serde::{Deserialize, Serialize};

use crate::backend::VmHost;
use crate::error::Result;
use crate::id::PodId;
use crate::pod::{OpenPod, Sandbox};
use crate::runtime::Runtime;
use crate::store::{ProcessRecord, VmRecord};

/// Interval at which the machine itself is checked while the channel is quiet. A dead machine closes the channel, which
/// is noticed at once; this covers one that hangs while it dies.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// An event of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodEvent {
    /// A process ended.
    Exited {
        /// Token of the process.
        token: String,
        /// The container, if it was the init process of one.
        container: Option<String>,
        /// How it ended.
        status: ExitStatus,
    },
    /// The guest killed a process of the container because memory ran out.
    OutOfMemory {
        /// Id of the container.
        container: String,
    },
    /// The machine is gone. Nothing follows.
    MachineEnded,
}

/// Events of one pod, from the moment [`Runtime::events`] returned.
pub struct PodEvents {
    sandbox: Sandbox,
    host: std::sync::Arc<dyn VmHost>,
    record: Option<VmRecord>,
    inits: Vec<(String, ProcessRecord)>,
    ended: bool,
}

impl Runtime {
    /// Subscribes to the events of a pod. Holds no lock.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), [`Error::Store`](crate::Error::Store); an error of the agent if
    /// the guest does not answer.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::PodEvent;
    /// # use std::time::Duration;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// let mut events = runtime.events("web")?;
    /// host.guest("web", |guest| guest.out_of_memory("server"));
    /// let event = events.next(Duration::from_secs(1))?;
    /// assert_eq!(event, Some(PodEvent::OutOfMemory { container: "server".into() }));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn events(&self, pod: &str) -> Result<PodEvents> {
        let mut pod = OpenPod::shared(self, &PodId::new(pod)?)?;
        if pod.sandbox.vm_alive() {
            // Subscribed from here on: the session is open.
            pod.sandbox.next_event(Duration::ZERO)?;
        }
        let inits = pod.containers().iter().filter_map(|c| Some((c.id.to_string(), c.process.clone()?))).collect();
        let sandbox = pod.into_sandbox();
        let (host, record) = (sandbox.backends.vm.clone(), sandbox.record().cloned());
        Ok(PodEvents { host, record, sandbox, inits, ended: false })
    }
}

impl PodEvents {
    /// The next event, at most `timeout` away; `None` if there was none.
    ///
    /// # Errors
    /// An error of the agent if the guest does not answer although its machine lives.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<PodEvent>> {
        let deadline = Deadline::after(timeout);
        while !self.ended {
            if !self.record.as_ref().is_some_and(|record| self.host.is_alive(record)) {
                return Ok(Some(self.end()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.sandbox.next_event(left.min(CHECK_INTERVAL)) {
                Ok(Some(event)) => {
                    if let Some(event) = self.translate(event) {
                        return Ok(Some(event));
                    }
                    // A guest may send others faster than they are taken.
                    if left.is_zero() {
                        return Ok(None);
                    }
                }
                Ok(None) if left.is_zero() => return Ok(None),
                Ok(None) => {}
                Err(error) if error.is_guest_lost() => {
                    let Some(record) = &self.record else { return Ok(Some(self.end())) };
                    // The channel breaks a moment before the process is gone.
                    if self.host.wait_end(record, CHECK_INTERVAL).unwrap_or(false) {
                        return Ok(Some(self.end()));
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> PodEvent {
        self.ended = true;
        PodEvent::MachineEnded
    }

    fn translate(&self, event: Event) -> Option<PodEvent> {
        match event {
            Event::Exited { token, status } => {
                let container = self.inits.iter().find(|(_, process)| process.token == token).map(|(id, _)| id.clone());
                Some(PodEvent::Exited { token, container, status })
            }
            Event::OutOfMemory { container } => Some(PodEvent::OutOfMemory { container }),
            // The session passes the guest's log on to the host's log. It is not an event of the pod.
            _ => None,
        }
    }
}
