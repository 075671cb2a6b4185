//! The one thread that waits for children: those of the host and every orphan of theirs.
//!
//! `waitid` first only looks (`WNOWAIT`), so that the table's lock is not held while waiting; the child is taken out
//! of the kernel under it. Without any child there is nothing to wait for, and no orphan can come either, since
//! orphans are descendants of children: then the thread waits until the table has seen a birth.

use std::sync::Arc;

use nix::errno::Errno;

use crate::log::{self, Level};
use crate::server::Agent;
use crate::sys::wait_for_end;

/// Reaps for ever. The thread's main function.
pub fn run(agent: &Arc<Agent>) {
    let processes = agent.processes();
    loop {
        let births = processes.births();
        let pid = match wait_for_end(None, true) {
            Ok(Some((pid, _))) => pid,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => {
                processes.wait_for_birth(births);
                continue;
            }
            Err(errno) => {
                // Not possible with these arguments; without a reaper the agent is of no use.
                log::write(Level::Fatal, format_args!("waiting for children: {errno}"));
                panic!("waiting for children failed: {errno}");
            }
        };
        let obituary = processes.reap(pid, || wait_for_end(Some(pid), false).ok().flatten().map(|(_, status)| status));
        if let Some(obituary) = obituary {
            agent.publish(obituary);
        }
    }
}
