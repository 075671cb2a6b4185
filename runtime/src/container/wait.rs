//! Waiting for the end of a container's process.

use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use crate::container::ids;
use crate::error::{Component, Result};
use crate::pod::{guarded, OpenPod};
use crate::runtime::Runtime;
use crate::spec::Exit;
use crate::timestamp::Timestamp;

/// Intervals at which the records of a container without a shim are read.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Runtime {
    /// Waits until a container's process has ended, at most `timeout`, and returns how it ended; `None` if it has not.
    /// Holds no lock while it waits. The container is stopped when this returns an exit.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`](crate::Error::NoSuchPod), [`Error::NoSuchContainer`](crate::Error::NoSuchContainer), also
    /// if it is deleted meanwhile.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use std::time::Duration;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// host.guest("web", |guest| guest.exit("server", 0));
    /// let exit = runtime.wait_container("web", "server", Duration::from_secs(5))?;
    /// assert_eq!(exit.unwrap().code, Some(0));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn wait_container(&self, pod: &str, container: &str, timeout: Duration) -> Result<Option<Exit>> {
        let (id, container) = ids(pod, container)?;
        let deadline = Deadline::after(timeout);
        let mut pause = FIRST_PAUSE;
        loop {
            let opened = OpenPod::shared(self, &id)?;
            let found = opened.find(&container)?;
            let (stopped, shim) = (found.is_stopped(), found.shim());
            let shims = opened.sandbox.backends.shims.clone();
            drop(opened);
            let left = deadline.saturating_duration_since(Instant::now());
            if stopped {
                break;
            }
            if shim.is_some() {
                match guarded(Component::Shim, "wait-end", || shims.wait_end(shim, left))? {
                    true => break,
                    false => return Ok(None),
                }
            }
            // Nothing but the records says when a container without a shim has ended.
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let status = self.status_container(pod, container.as_str())?;
        Ok(Some(status.exit.unwrap_or_else(|| Exit::unknown("its end was not observed", Timestamp::now()))))
    }
}
