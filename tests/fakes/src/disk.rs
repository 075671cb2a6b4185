//! A disk that fails on request.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use hutch_runtime::store::{Disk, HostDisk};

/// The host's disk, whose writes and new directories fail from a given one on.
#[derive(Debug)]
pub struct FailingDisk {
    errno: i32,
    /// Writes until the first failure; `usize::MAX`: none.
    left: AtomicUsize,
    hits: AtomicUsize,
}

impl FailingDisk {
    /// A disk whose failures are `errno`.
    pub fn new(errno: i32) -> Self {
        Self { errno, left: AtomicUsize::new(usize::MAX), hits: AtomicUsize::new(0) }
    }

    /// The `nth` (from 1) change from now on fails, and all after it.
    pub fn fail_from(&self, nth: usize) {
        self.hits.store(0, Ordering::SeqCst);
        self.left.store(nth.saturating_sub(1), Ordering::SeqCst);
    }

    /// No more failures.
    pub fn heal(&self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
    }

    /// Failures so far.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn allow(&self) -> io::Result<()> {
        let step = |left: usize| match left {
            usize::MAX | 0 => None,
            left => Some(left - 1),
        };
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
            Err(0) => {
                self.hits.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(self.errno))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for FailingDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        HostDisk.read(path)
    }

    fn write(&self, path: &Path, bytes: &[u8], before_rename: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.allow()?;
        HostDisk.write(path, bytes, before_rename)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            self.allow()?;
        }
        HostDisk.make_dir(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove_tree(path)
    }
}
