//! The lock of a pod: one advisory whole-file lock (flock(2)) on a file in its runtime directory (pod contract, §4).
//!
//! flock has no time limit of its own. A waiter therefore tries without blocking and, while another process holds the
//! lock, sleeps on an inotify watch of the lock file: every release closes the file, which wakes the waiter. A fallback
//! timer, which doubles from a millisecond to a second, covers two cases that the watch does not: hosts without a free
//! inotify instance, and a killed holder (the kernel reports the close a moment before it drops the lock). So an idle
//! waiter costs one wake-up per second and notices a release at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{major, minor};

use super::names::RESERVATION;
use super::{PodDirs, Store, StoreCause};
use crate::error::{Error, Object, Result};
use crate::fault;
use crate::id::PodId;
use crate::process::wait_readable;

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Bound for a lock that an ancestor of this process holds: that one may be waiting for us, as the caller of a hook is.
const ANCESTOR_WAIT: Duration = Duration::from_secs(1);
/// Longest chain of ancestors that is followed.
const MAX_ANCESTORS: usize = 64;

/// How a pod is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Shared with other readers.
    Shared,
    /// Excludes all others.
    Exclusive,
}

/// A held lock; dropping it releases it. The descriptor is closed on exec (P-031).
#[derive(Debug)]
pub struct PodLock {
    file: File,
}

impl Drop for PodLock {
    fn drop(&mut self) {
        // Before the close, so that the waiter that the close wakes finds the lock free.
        let _ = self.file.unlock();
    }
}

/// An id that no other call may use for a new object.
#[derive(Debug)]
pub(crate) struct Reservation {
    path: PathBuf,
    lock: Option<PodLock>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // While the lock is held: a waiter finds another file, or none.
        if self.lock.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes reservations whose holders were killed.
pub(super) fn remove_reservations(run_root: &Path) {
    for entry in fs::read_dir(run_root).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !entry.file_name().to_string_lossy().starts_with(RESERVATION) {
            continue;
        }
        let path = entry.path();
        let free = |file: &File| try_lock(file, LockMode::Exclusive).is_ok_and(|locked| locked);
        if File::open(&path).is_ok_and(|file| free(&file) && is_current(&file, &path).unwrap_or(false)) {
            let _ = fs::remove_file(&path);
        }
    }
}

impl Store {
    /// Locks a pod, waiting at most `timeout`. `None`: the pod exists, but its runtime directory does not, because the
    /// host was restarted; see [`Store::lock_existing`].
    ///
    /// Never creates the lock file (P-022), and makes sure that the file it locked is still the pod's (P-026).
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], [`Error::Timeout`] naming the pod (P-028), [`Error::Store`].
    pub fn lock(&self, id: &PodId, mode: LockMode, timeout: Duration) -> Result<Option<PodLock>> {
        let dirs = self.pod(id);
        self.check_owner(&dirs)?;
        match lock_path(id, &dirs.lock(), mode, Deadline::after(timeout), timeout, false)? {
            Some(lock) => {
                fault::point("lock.held")?;
                Ok(Some(lock))
            }
            None if self.exists(&dirs)? => Ok(None),
            None => Err(Error::NoSuchPod(id.to_string())),
        }
    }

    /// Whether the pod's lock is held by an ancestor of this process: this process, or one it descends from, is a hook of
    /// the call that holds the lock.
    pub(crate) fn is_held_by_ancestor(&self, id: &PodId) -> bool {
        File::open(self.pod(id).lock()).is_ok_and(|file| is_held_by_ancestor(&file))
    }

    /// Keeps other calls from creating an object named `id` until the result is dropped, waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub(crate) fn reserve(&self, id: &PodId, timeout: Duration) -> Result<Reservation> {
        self.make_run_root()?;
        let path = self.run_root().join(format!("{RESERVATION}{id}"));
        let lock = lock_path(id, &path, LockMode::Exclusive, Deadline::after(timeout), timeout, true)?;
        Ok(Reservation { path, lock })
    }

    /// Makes the runtime directory and the lock file of a new pod and holds the lock from the first moment on (P-021).
    /// Leftovers of an earlier creation or deletion may still lie there.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if there is such a pod, else as [`Store::lock`].
    pub fn lock_new(&self, id: &PodId, timeout: Duration) -> Result<PodLock> {
        let dirs = self.pod(id);
        self.check_owner(&dirs)?;
        let taken = || Err(Error::AlreadyExists(Object::Pod(id.to_string())));
        if self.exists(&dirs)? {
            return taken();
        }
        let deadline = Deadline::after(timeout);
        let lock = self.lock_creating(id, &dirs, deadline, timeout)?;
        if self.exists(&dirs)? {
            return taken();
        }
        fault::point("lock.new")?;
        Ok(lock)
    }

    pub(super) fn lock_creating(
        &self,
        id: &PodId,
        dirs: &PodDirs,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<PodLock> {
        loop {
            self.make_run_dir(id)?;
            // `None`: a deletion removed the directory in between.
            if let Some(lock) = lock_path(id, &dirs.lock(), LockMode::Exclusive, deadline, timeout, true)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(timed_out(id, timeout));
            }
        }
    }
}

/// `None` if there is no file at `path` (with `create`: no directory for it).
fn lock_path(
    id: &PodId,
    path: &Path,
    mode: LockMode,
    deadline: Instant,
    timeout: Duration,
    create: bool,
) -> Result<Option<PodLock>> {
    let fail = |e: io::Error| Error::Store { path: path.to_owned(), source: StoreCause::Lock(e) };
    loop {
        let file = match OpenOptions::new().read(true).write(create).create(create).mode(0o600).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        if !acquire(&file, path, mode, deadline).map_err(fail)? {
            return Err(timed_out(id, timeout));
        }
        let lock = PodLock { file };
        if is_current(&lock.file, path).map_err(fail)? {
            return Ok(Some(lock));
        }
    }
}

fn timed_out(id: &PodId, after: Duration) -> Error {
    Error::Timeout {
        component: None,
        what: format!("pod {id} is in use by another call; its lock was not free"),
        after,
    }
}

/// Whether `path` still names the file that was locked: a deletion unlinks it while holding the lock (P-026).
fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Locks `file`; `false` if the deadline passed before.
fn acquire(file: &File, path: &Path, mode: LockMode, deadline: Instant) -> io::Result<bool> {
    if try_lock(file, mode)? {
        return Ok(true);
    }
    let deadline = match is_held_by_ancestor(file) {
        true => deadline.min(Deadline::after(ANCESTOR_WAIT)),
        false => deadline,
    };
    let watch = watch(path);
    let mut wait = FIRST_WAIT;
    loop {
        // Tried again after the watch is set, so that a release in between is not missed.
        if try_lock(file, mode)? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let woken = match &watch {
            Some(watch) => wait_readable(watch, wait.min(left))?,
            None => {
                std::thread::sleep(wait.min(left));
                false
            }
        };
        if woken {
            drain(watch.as_ref());
            wait = FIRST_WAIT;
        } else {
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// Whether an ancestor of this process has the file locked, by /proc/locks (proc(5)): `1: FLOCK ADVISORY WRITE PID
/// MAJOR:MINOR:INODE 0 EOF`, the device in hexadecimal.
fn is_held_by_ancestor(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let device = metadata.dev();
    let wanted = format!("{:02x}:{:02x}:{}", major(device), minor(device), metadata.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        // Waiters have an arrow in place of the kind.
        if fields.next()? != "FLOCK" {
            return None;
        }
        let mut fields = fields.skip(2);
        let pid: i32 = fields.next()?.parse().ok()?;
        (fields.next()? == wanted).then_some(pid)
    });
    let mut ancestors = None;
    holders.any(|holder| ancestors.get_or_insert_with(ancestors_of_this_process).contains(&holder))
}

/// PIDs of the parent, its parent, and so on.
fn ancestors_of_this_process() -> Vec<i32> {
    let mut found = Vec::new();
    let mut pid = "self".to_owned();
    while found.len() < MAX_ANCESTORS {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { break };
        // The name, in parentheses, may hold anything; state and parent follow.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        let Some(parent) = parent.filter(|parent| *parent > 0) else { break };
        found.push(parent);
        pid = parent.to_string();
    }
    found
}

fn try_lock(file: &File, mode: LockMode) -> io::Result<bool> {
    loop {
        let result = match mode {
            LockMode::Shared => file.try_lock_shared(),
            LockMode::Exclusive => file.try_lock(),
        };
        match result {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

/// Watches `path` for being closed and unlinked; `None` if that is not possible, which leaves the timer.
fn watch(path: &Path) -> Option<OwnedFd> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CLOSE_NOWRITE | AddWatchFlags::IN_ATTRIB;
    inotify.add_watch(path, flags).ok()?;
    Some(inotify.into())
}

fn drain(watch: Option<&OwnedFd>) {
    let mut buffer = [0; 4096];
    while watch.is_some_and(|watch| nix::unistd::read(watch, &mut buffer).is_ok_and(|count| count > 0)) {}
}
