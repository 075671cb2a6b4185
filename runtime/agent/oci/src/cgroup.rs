//! Control groups (version 2) of containers: `/sys/fs/cgroup/hutch/c-ID`. Any thread.
//!
//! libcontainer brings libcgroups, which this does not use (0.7): its `freeze` polls every 10 ms and does not wait for
//! a thaw; its `remove` gives up after four attempts within 100 ms and leaves groups below; it cannot wait for
//! `cgroup.events` to change, nor signal all members until no new one turns up.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent::failure::{io as failed_io, system, Outcome};
use hutch_agent::sys::{send_signal, wait_for};
use hutch_agent_proto::{Deadline, RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::mount::{mount, MsFlags};
use nix::sys::statfs::{statfs, CGROUP2_SUPER_MAGIC};

/// Mount point of the hierarchy.
const ROOT: &str = "/sys/fs/cgroup";
/// Parent group of all containers.
const PARENT: &str = "hutch";
/// Most readings of the members for one signal: members may fork as fast as they are signalled.
const MAX_ROUNDS: usize = 16;

/// A container's group.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

/// Mounts the hierarchy unless it is mounted, and enables its controllers for containers.
///
/// # Errors
/// `System` if the kernel has no control groups.
pub fn prepare() -> Outcome<()> {
    let is_mounted = || statfs(ROOT).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if !is_mounted() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        mount(Some("cgroup2"), ROOT, Some("cgroup2"), flags, None::<&str>)
            .map_err(|errno| system(format_args!("mounting control groups at {ROOT}"), errno))?;
    }
    let root = Path::new(ROOT);
    enable_controllers(root);
    let parent = root.join(PARENT);
    match fs::create_dir(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed_io(format_args!("making {}", parent.display()), &error));
        }
        _ => enable_controllers(&parent),
    }
    Ok(())
}

/// Enables the controllers one by one: some may not be available below.
fn enable_controllers(group: &Path) {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

impl Cgroup {
    /// The group of container `id`, which need not exist yet. The prefix keeps ids apart from the kernel's file names.
    pub fn of(id: &str) -> Self {
        Self { path: Path::new(ROOT).join(PARENT).join(format!("c-{id}")) }
    }

    /// Path of the group in the hierarchy, for the OCI configuration.
    pub fn oci_path(id: &str) -> String {
        format!("/{PARENT}/c-{id}")
    }

    /// Path of a file of the group.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Text of a file; empty if the file does not exist.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }

    /// The only number in a file; `None` for `max` or a missing file.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.read(name).trim().parse().ok()
    }

    /// A number by its key in a file of `KEY NUMBER` lines.
    pub fn keyed(&self, name: &str, key: &str) -> Option<u64> {
        keyed(&self.read(name), key)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        // Without creation: a missing controller is an error.
        let mut file = File::options().write(true).open(self.path.join(name))?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    /// Pids of all members, also of groups below.
    pub fn members(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        self.walk(&mut |group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Visits the group and the groups below it, children first.
    fn walk(&self, visit: &mut dyn FnMut(&Path)) {
        fn go(group: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
            let entries = if depth > 0 { fs::read_dir(group).ok() } else { None };
            for entry in entries.into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    go(&entry.path(), depth - 1, visit);
                }
            }
            visit(group);
        }
        go(&self.path, 32, visit);
    }

    /// Signals all members. Reads the members again until no new one turns up.
    pub fn signal(&self, signal: i32) {
        if signal == libc::SIGKILL && self.write("cgroup.kill", "1").is_ok() {
            return;
        }
        let mut done = std::collections::BTreeSet::new();
        for _ in 0..MAX_ROUNDS {
            let fresh: Vec<i32> = self.members().into_iter().filter(|pid| done.insert(*pid)).collect();
            if fresh.is_empty() {
                return;
            }
            for pid in fresh {
                let _ = send_signal(pid, signal);
            }
        }
    }

    /// Freezes or thaws all members, and waits until the kernel has done it.
    pub fn freeze(&self, frozen: bool, limit: Duration) -> Outcome<()> {
        let value = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", value).map_err(|error| failed_io("the container's freezer", &error))?;
        match self.wait_event("frozen", u64::from(frozen), limit) {
            true => Ok(()),
            false => Err(RemoteError::new(RemoteErrorKind::Timeout, "the container's processes did not stop in time")),
        }
    }

    /// Whether it has members.
    pub fn is_populated(&self) -> bool {
        self.keyed("cgroup.events", "populated") == Some(1)
    }

    /// Waits until `key` of `cgroup.events` is `value`, and returns whether it is. In a group that is gone every value
    /// is 0.
    pub fn wait_event(&self, key: &str, value: u64, limit: Duration) -> bool {
        let deadline = Deadline::after(limit);
        let Ok(mut events) = File::open(self.path.join("cgroup.events")) else { return value == 0 };
        loop {
            let mut text = String::new();
            // Reading arms the kernel's notification of the next change.
            if events.rewind().and_then(|()| events.read_to_string(&mut text)).is_err() {
                return value == 0;
            }
            if keyed(&text, key).unwrap_or_default() == value {
                return true;
            }
            if !wait_for(&[events.as_fd()], libc::POLLPRI, deadline)[0] {
                return false;
            }
        }
    }

    /// Removes the empty group and the groups below it.
    ///
    /// # Errors
    /// `WrongState` if a group still has members.
    pub fn remove(&self) -> Outcome<()> {
        let mut result = Ok(());
        self.walk(&mut |group| match fs::remove_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
            _ => {}
        });
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => {
                RemoteError::new(RemoteErrorKind::WrongState, "processes of the container are still there")
            }
            errno => {
                system(format_args!("removing {}", self.path.display()), Errno::from_raw(errno.unwrap_or(libc::EIO)))
            }
        })
    }
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_are_read_by_key() {
        let text = "low 0\noom_kill 3\nbad\nmax x\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "max"), None);
        assert_eq!(keyed(text, "oom"), None);
    }

    #[test]
    fn a_missing_group_is_empty() {
        let group = Cgroup { path: "/nonexistent/group".into() };
        assert!(group.members().is_empty() && !group.is_populated());
        assert!(group.wait_event("populated", 0, Duration::ZERO));
        assert_eq!(group.number("memory.current"), None);
        assert!(group.remove().is_ok());
    }
}
