//! How a stop treats the processes and a guest that does not answer.

use std::time::Instant;

/// How a container is stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopMode {
    /// Ignore every failure of the guest; the host's side is always done (P-111).
    pub(crate) force: bool,
    /// Until when the process may end by itself; `None`: it is killed at once.
    pub(crate) grace_deadline: Option<Instant>,
    /// What a guest that does not answer means.
    pub(crate) on_unreachable: UnreachablePolicy,
}

/// What a guest that does not answer means for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnreachablePolicy {
    /// The stop fails: the process may still run.
    Fails,
    /// The machine is killed, which ends all its processes: a stop of the whole pod (P-085).
    KillsMachine,
}
