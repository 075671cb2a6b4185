//! The one thread that waits for children: processes that the host started, and their orphans.
//!
//! The first `waitid` leaves the child in the kernel (`WNOWAIT`), so that the thread does not hold the table's lock
//! while it waits; the second one takes the child out of the kernel under the lock. Without any child `waitid` fails at
//! once. No orphan can appear then, since orphans are descendants of children, so the thread waits until the table has
//! counted another spawn.

use nix::errno::Errno;

use crate::log::{self, Level};
use crate::process::{ExitEvent, Processes};
use crate::sys::wait_for_end;

/// The thread's main function: reaps for ever and hands the ends of known processes to `publish`.
pub fn run(processes: &Processes, publish: impl Fn(ExitEvent)) {
    loop {
        let spawn_count = processes.spawn_count();
        let pid = match wait_for_end(None, true) {
            Ok(Some((pid, _))) => pid,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => {
                processes.wait_for_spawn(spawn_count);
                continue;
            }
            Err(errno) => {
                // Not possible with these arguments; an agent without a reaper is useless.
                log::write(Level::Fatal, format_args!("waiting for children: {errno}"));
                panic!("waiting for children failed: {errno}");
            }
        };
        let exit = processes.reap(pid, || wait_for_end(Some(pid), false).ok().flatten().map(|(_, status)| status));
        if let Some(exit) = exit {
            publish(exit);
        }
    }
}
