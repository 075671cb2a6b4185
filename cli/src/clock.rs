//! The clock of all marks: CLOCK_MONOTONIC in nanoseconds, as in the machine's marks.

use nix::time::{clock_gettime, ClockId};

/// The time of CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time of this process in nanoseconds. At the start of `main` it is the time that the loader took.
pub fn cpu_ns() -> u64 {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux. Without one, only a mark would be wrong.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
