//! The clock of all marks: CLOCK_MONOTONIC in nanoseconds, as the machine's marks are.

use nix::time::{clock_gettime, ClockId};

/// Now.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time this process has used. Read at the start of `main` it tells how long the loader took.
pub fn cpu_ns() -> u64 {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; a missing one would only spoil a figure.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
