//! The end of the guest: as fast as it can be without losing data. On the thread of the connection that asked.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::mount::{umount2, MntFlags};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::stat::Mode;
use nix::unistd::{sync, syncfs};

use crate::log::{self, Level};
use crate::marks;
use crate::process_tree::Family;
use crate::sandbox::Sandbox;
use crate::server::{lock, Agent};
use crate::sys::{exit_now, send_signal};

/// How long killed processes may take to be gone. They are not asked; only a stuck device makes this matter.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// How to switch off; tests replace it.
pub trait Power: Send + Sync {
    /// Ends everything. Does not return.
    fn off(&self, agent: &Agent) -> !;
}

/// A guest whose PID 1 this is.
pub struct Guest;

impl Power for Guest {
    fn off(&self, agent: &Agent) -> ! {
        marks::mark(b'X');
        // Everybody but this process.
        let _ = send_signal(-1, libc::SIGKILL);
        wind_up(agent);
        halt()
    }
}

/// A process like any other that serves the protocol, in tests.
pub struct Process;

impl Power for Process {
    fn off(&self, agent: &Agent) -> ! {
        Family::of(std::process::id() as i32).signal_offspring(libc::SIGKILL);
        wind_up(agent);
        exit_now(0)
    }
}

/// Waits for the killed, lets go of the sandbox and writes out what is cached. Then it hangs up, which tells the host
/// that nothing can be lost any more: it need not wait until the kernel has shut all devices down.
fn wind_up(agent: &Agent) {
    if !agent.processes().wait_childless(KILL_PATIENCE) {
        log::write(Level::Warn, "powering off although some processes have not ended");
    }
    if let Ok(initial) = Sandbox::initial() {
        // Dropping the old one ends its mount namespace.
        agent.set_sandbox(initial);
    }
    let mounts = std::mem::take(&mut *lock(&agent.mounts));
    for target in mounts.iter().rev() {
        // Unmounting leaves a clean journal; what is still busy is at least written out.
        if umount2(target.as_str(), MntFlags::UMOUNT_NOFOLLOW).is_err() {
            let _ = write_out(Path::new(target));
        }
    }
    // Processes may have mounted more.
    sync();
    agent.hang_up();
}

fn write_out(path: &Path) -> Result<(), Errno> {
    let directory = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    syncfs(directory.as_fd())
}

/// Powers the machine off.
pub fn halt() -> ! {
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    log::write(Level::Fatal, format_args!("the kernel does not power off: {}", errno.desc()));
    // The end of init is a kernel panic, which the machine monitor reports.
    exit_now(1)
}
