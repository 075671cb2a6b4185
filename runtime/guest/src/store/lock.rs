//! Exclusive locks between processes, with a bounded wait and no polling.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A lock that was not acquired.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LockError {
    #[error("cannot open the lock file {}; run as a user who may write there, or choose another directory (--guest-dir)", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another process ({holder}) has held {} for {} s; wait for it or end it", path.display(), waited.as_secs())]
    Busy { path: PathBuf, holder: String, waited: Duration },
}

/// A held lock. The kernel releases it when this value is dropped and when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Acquires the lock at `path`, waits at most `timeout`. Calls `on_wait` with the holder before a wait.
    pub(crate) fn acquire(path: &Path, timeout: Duration, on_wait: &mut dyn FnMut(&str)) -> Result<Lock, LockError> {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open().map_err(|source| LockError::Open { path: path.to_owned(), source })?;
        let failed = |errno: Errno| LockError::Lock { path: path.to_owned(), source: errno.into() };
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(Lock::held(file)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(failed(errno)),
        };
        let holder = holder(path);
        on_wait(&holder);
        // flock() has no timeout, so a thread waits. After our timeout it drops the lock when it gets it.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
        match receiver.recv_timeout(timeout) {
            Ok(Ok(file)) => Ok(Lock::held(file)),
            Ok(Err((_, errno))) => Err(failed(errno)),
            Err(_) => Err(LockError::Busy { path: path.to_owned(), holder, waited: timeout }),
        }
    }

    /// Records the holder of the lock, only for messages; a failure to write does not matter.
    fn held(mut file: Flock<File>) -> Lock {
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
        Lock { _file: file }
    }
}

fn holder(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(pid) if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => format!("process {pid}"),
        _ => "of unknown id".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn ignore(_: &str) {}

    #[test]
    fn a_second_taker_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, Duration::ZERO, &mut ignore).unwrap();
        let (waiting, is_waiting) = mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || {
                Lock::acquire(&path, Duration::from_secs(20), &mut |who| waiting.send(who.to_owned()).unwrap()).is_ok()
            }
        });
        assert_eq!(is_waiting.recv().unwrap(), format!("process {}", std::process::id()));
        drop(first);
        assert!(second.join().unwrap());
    }

    #[test]
    fn a_timeout_ends_the_wait_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _first = Lock::acquire(&path, Duration::ZERO, &mut ignore).unwrap();
        let start = Instant::now();
        let error = Lock::acquire(&path, Duration::from_millis(30), &mut ignore).unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn who_gave_up_does_not_keep_the_lock_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, Duration::ZERO, &mut ignore).unwrap();
        Lock::acquire(&path, Duration::from_millis(1), &mut ignore).unwrap_err();
        drop(first);
        Lock::acquire(&path, Duration::from_secs(20), &mut ignore).unwrap();
    }
}
