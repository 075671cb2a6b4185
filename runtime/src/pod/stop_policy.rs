//! The policy of a stop: the first signal, the waits, and the treatment of a guest that does not answer.

use std::time::{Duration, Instant};

/// The first signal of a stop, for the commands and for [`StopOptions::default`](crate::StopOptions): SIGTERM. Callers
/// of the library choose by [`StopOptions::signal`](crate::StopOptions::signal).
pub const STOP_SIGNAL: i32 = libc::SIGTERM;
/// Default time from the first signal to SIGKILL.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Default time from SIGKILL to the end of the process.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Default time from the request to power off to SIGKILL for the VMM process.
pub(crate) const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(5);

/// How to stop a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopMode {
    /// Ignore every failure of the guest; the host's side is always done (P-111).
    pub(crate) force: bool,
    /// The process may end by itself until then; `None`: it is killed at once.
    pub(crate) grace_deadline: Option<Instant>,
    /// The consequence of a guest that does not answer.
    pub(crate) on_unreachable: UnreachablePolicy,
}

/// The consequence of a guest that does not answer for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnreachablePolicy {
    /// The stop fails: the process may still run.
    Fails,
    /// The machine is killed, which ends all its processes: a stop of the whole pod (P-085).
    KillsMachine,
}
