//! The facts that the checks read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hutch_guest::{AssetKind, GuestError, Inspection};
use hutch_vmm::confine::landlock::restrict_this_thread;
use hutch_vmm::confine::trial::{self, Granted};
use hutch_vmm::probe::{self, KvmSupport};
use nix::sys::resource::{getrlimit, Resource};
use nix::sys::statfs::{statfs, CGROUP2_SUPER_MAGIC};
use nix::unistd::{geteuid, AccessFlags};

/// A host to examine. Tests use fake ones.
pub trait View {
    /// Support for KVM.
    fn kvm(&self) -> KvmSupport;
    /// Contents of a small file.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Whether this user may read and write `path`.
    fn access(&self, path: &str) -> io::Result<()>;
    /// Whether `path` is a cgroup v2 file system.
    fn is_cgroup2(&self, path: &str) -> bool;
    /// Soft and hard limit, `u64::MAX` for none.
    fn limit(&self, limit: Limit) -> io::Result<(u64, u64)>;
    /// Whether the kernel has the filters with which machines confine themselves.
    fn seccomp(&self) -> io::Result<()>;
    /// The layers of a jail that this process may have.
    fn granted(&self) -> Granted;
    /// The version of Landlock that limits the files of machines, if the kernel has it.
    fn landlock(&self) -> Option<u32>;
    /// Whether this user is root.
    fn is_root(&self) -> bool;
    /// Directory of the guest assets.
    fn guest_dir(&self) -> PathBuf;
    /// Verifies the checksums of a guest asset.
    fn asset(&self, kind: &AssetKind) -> Result<Inspection, GuestError>;
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Number of open files.
    Files,
    /// Locked memory in bytes.
    Memlock,
}

/// The host that hutch runs on.
pub struct ThisHost {
    guest_dir: PathBuf,
}

impl ThisHost {
    /// Looks for guest assets in `guest_dir`, else in the default directory.
    pub fn new(guest_dir: Option<&Path>) -> Self {
        Self { guest_dir: hutch_guest::guest_dir(guest_dir) }
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

    fn seccomp(&self) -> io::Result<()> {
        hutch_vmm::confine::seccomp::check_support()
    }

    fn granted(&self) -> Granted {
        trial::try_all()
    }

    fn landlock(&self) -> Option<u32> {
        // Tried on a thread that ends with that.
        let tried = std::thread::spawn(|| restrict_this_thread(&[]).ok().flatten());
        tried.join().ok().flatten()
    }

    fn is_root(&self) -> bool {
        geteuid().is_root()
    }

    fn guest_dir(&self) -> PathBuf {
        self.guest_dir.clone()
    }

    fn asset(&self, kind: &AssetKind) -> Result<Inspection, GuestError> {
        hutch_guest::inspect(&self.guest_dir, kind, None)
    }
}
