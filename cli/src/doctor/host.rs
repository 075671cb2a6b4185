//! What the checks look at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hutch_runtime::guest::{self, AssetKind, GuestError, Inspection};
use hutch_vmm::probe::{self, KvmSupport};
use nix::sys::resource::{getrlimit, Resource};
use nix::sys::statfs::{statfs, CGROUP2_SUPER_MAGIC};
use nix::unistd::{geteuid, AccessFlags};

/// A host to examine. Tests make up their own.
pub trait View {
    /// What KVM there is.
    fn kvm(&self) -> KvmSupport;
    /// Contents of a small file.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Whether this user may read and write `path`.
    fn access(&self, path: &str) -> io::Result<()>;
    /// Whether `path` is a cgroup v2 file system.
    fn is_cgroup2(&self, path: &str) -> bool;
    /// Soft and hard limit, `u64::MAX` for none.
    fn limit(&self, limit: Limit) -> io::Result<(u64, u64)>;
    /// Whether this user is root.
    fn is_root(&self) -> bool;
    /// Where guest assets are kept.
    fn guest_dir(&self) -> PathBuf;
    /// Reads a guest asset and compares its sums.
    fn asset(&self, kind: &AssetKind) -> Result<Inspection, GuestError>;
}

/// Limits of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Open files.
    Files,
    /// Locked memory in bytes.
    Memlock,
}

/// The host this runs on.
pub struct ThisHost {
    guest_dir: PathBuf,
}

impl ThisHost {
    /// With guest assets in `guest_dir`, or where they usually are.
    pub fn new(guest_dir: Option<&Path>) -> Self {
        Self { guest_dir: guest::guest_dir(guest_dir) }
    }
}

impl View for ThisHost {
    fn kvm(&self) -> KvmSupport {
        probe::probe()
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn access(&self, path: &str) -> io::Result<()> {
        Ok(nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK)?)
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
    }

    fn limit(&self, limit: Limit) -> io::Result<(u64, u64)> {
        Ok(getrlimit(match limit {
            Limit::Files => Resource::RLIMIT_NOFILE,
            Limit::Memlock => Resource::RLIMIT_MEMLOCK,
        })?)
    }

    fn is_root(&self) -> bool {
        geteuid().is_root()
    }

    fn guest_dir(&self) -> PathBuf {
        self.guest_dir.clone()
    }

    fn asset(&self, kind: &AssetKind) -> Result<Inspection, GuestError> {
        guest::inspect(&self.guest_dir, kind, None)
    }
}
