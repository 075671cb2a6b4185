//! The layers of a jail that the kernel grants this process, found by trying each on a thread that ends with that. `hutch doctor`
//! calls it: root in a container may be allowed less than root, and an ordinary user more.

use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{unshare, CloneFlags};
use nix::sys::prctl;

use super::capabilities::{CapabilitySet, FILE_SERVER};
use super::identity::{self, Kept};
use super::root::{MountNamespace, PrivateRoot};

/// A directory that every host has. The trial mounts its root there, in a mount namespace of its own.
const PLACE: &str = "/proc";

/// Each layer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Namespaces of mounts, of System V objects and of the host's name, which a process gets together.
    pub apart: Result<(), String>,
    /// A namespace of processes.
    pub pid: Result<(), String>,
    /// A namespace of networks.
    pub net: Result<(), String>,
    /// A root directory that holds only the shares.
    pub root: Result<(), String>,
    /// A user of its own, for a machine without shares.
    pub identity: Result<(), Kept>,
    /// The number of capabilities that a file server would have.
    pub file_server: u32,
}

/// Tries all layers. Nothing of this process changes, and nothing of the host.
pub fn try_all() -> Granted {
    let capabilities = CapabilitySet::of_this_thread().unwrap_or_default();
    let apart = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let leave = |flags| on_a_thread(move || Ok(unshare(flags)?)).map_err(|error: io::Error| error.to_string());
    let dumpable = prctl::get_dumpable();
    let granted = Granted {
        apart: leave(apart),
        pid: leave(CloneFlags::CLONE_NEWPID),
        net: leave(CloneFlags::CLONE_NEWNET),
        root: MountNamespace::of_this_thread()
            .and_then(|launcher| on_a_thread(move || private_root(launcher, apart)))
            .map_err(|error| error.to_string()),
        identity: identity::choose(false).and_then(|id| {
            on_a_thread(move || identity::take(id, false)).map_err(|error: io::Error| {
                log::debug!("user {id}: {error}");
                Kept::Refused
            })
        }),
        file_server: capabilities.and(FILE_SERVER).count(),
    };
    // A thread that changes its user changes this for all threads.
    if let Ok(dumpable) = dumpable
        && let Err(error) = prctl::set_dumpable(dumpable)
    {
        log::debug!("this process dumps no core any more: {error}");
    }
    granted
}

fn private_root(launcher: MountNamespace, apart: CloneFlags) -> io::Result<()> {
    unshare(apart)?;
    PrivateRoot::prepare(Path::new(PLACE), &[], launcher)?.enter()
}

/// A change that a thread makes to itself ends with it.
fn on_a_thread<T: Send>(job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("trial".into()).spawn_scoped(scope, job)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::unistd::geteuid;

    use super::*;
    use crate::confine::capabilities::IMAGES;

    /// The state that a trial must leave alone.
    fn state() -> Vec<String> {
        let links = ["ns/mnt", "ns/pid_for_children", "ns/ipc", "ns/uts", "ns/net", "root", "cwd"];
        let link =
            |name: &str| fs::read_link(format!("/proc/thread-self/{name}")).expect("a link").display().to_string();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("a table");
        let status = fs::read_to_string("/proc/thread-self/status").expect("a status");
        let ids = |line: &&str| ["Uid:", "Gid:", "Groups:", "CapPrm:"].iter().any(|name| line.starts_with(name));
        let ids = status.lines().filter(ids).map(str::to_owned);
        links.map(link).into_iter().chain([mounts]).chain(ids).collect()
    }

    #[test]
    fn a_trial_changes_nothing_and_says_what_an_attempt_says() {
        let before = state();
        let granted = try_all();
        assert_eq!(state(), before);
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        let allowed = thread::spawn(move || unshare(flags).is_ok()).join().expect("a thread");
        assert_eq!(granted.apart.is_ok(), allowed, "{granted:?}");
        assert!(granted.apart.is_ok() || granted.root.is_err(), "a root needs a namespace of mounts: {granted:?}");
        if !geteuid().is_root() {
            assert_eq!(granted.identity, Err(Kept::NotRoot));
        }
    }

    /// As in most containers: root without CAP_SYS_ADMIN.
    #[test]
    fn root_without_the_capability_to_mount_gets_less() {
        if !geteuid().is_root() {
            return super::super::helper_tests::skip("only root can have less than root");
        }
        let (granted, files) = thread::spawn(|| {
            let kept = FILE_SERVER.with(IMAGES).limit_this_thread().expect("fewer capabilities");
            (try_all(), kept.and(FILE_SERVER).count())
        })
        .join()
        .expect("a thread");
        for refused in [&granted.apart, &granted.pid, &granted.net, &granted.root] {
            assert!(refused.as_ref().is_err_and(|error| error.contains("os error 1)")), "{granted:?}");
        }
        assert_eq!(granted.file_server, files);
    }
}
