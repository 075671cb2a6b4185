//! The end of the guest: as fast as it can be without losing data. Runs on the thread of the connection that asked.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::mount::{umount2, MntFlags};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::stat::Mode;
use nix::unistd::{sync, syncfs};

use crate::agent::{Agent, Power};
use crate::log::{self, Level};
use crate::marks;
use crate::mount_ns::MountNs;
use crate::process_tree::ProcessTree;
use crate::sys::{exit_now, send_signal};
use crate::thread::lock;

/// How long the agent waits for the processes it has killed. Only a stuck device makes this matter.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// A guest whose PID 1 this process is.
pub struct GuestPower;

impl Power for GuestPower {
    fn off(&self, agent: &Agent) -> ! {
        marks::mark(b'X');
        // Every process but this one.
        let _ = send_signal(-1, libc::SIGKILL);
        shutdown(agent);
        halt()
    }
}

/// An ordinary process that serves the protocol, in tests.
pub struct ProcessPower;

impl Power for ProcessPower {
    fn off(&self, agent: &Agent) -> ! {
        ProcessTree::of(std::process::id() as i32).signal_offspring(libc::SIGKILL);
        shutdown(agent);
        exit_now(0)
    }
}

/// Waits for the killed processes, unmounts, and writes out what is cached. Then it hangs up. The host
/// learns from it that all data is safe, and need not wait until the kernel has shut down all devices.
fn shutdown(agent: &Agent) {
    if !agent.processes().wait_no_children(KILL_TIMEOUT) {
        log::write(Level::Warn, "powering off although some processes have not ended");
    }
    if let Ok(initial) = MountNs::initial() {
        // Dropping the old one ends its mount namespace.
        agent.set_mount_ns(initial);
    }
    let mounts = std::mem::take(&mut *lock(&agent.mounts));
    for target in mounts.iter().rev() {
        // Unmounting leaves a clean journal. A file system that is still busy is at least written out.
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
