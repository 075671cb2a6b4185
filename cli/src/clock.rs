//! The CPU time of this process, beside the clock of all marks ([`hutch_vmm::now_ns`]).

use nix::time::{clock_gettime, ClockId};

/// CPU time of this process in nanoseconds. At the start of `main` it is the time that the loader took.
pub fn cpu_ns() -> u64 {
    // This clock exists on every Linux. Without it, only a mark would be wrong.
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
