//! Kernels for the bed, kept in a cache directory.
//!
//! * `distro`: Debian's cloud kernel package, ready in seconds. One CPU: with two, the kernel's run-time text patching
//!   races with QEMU's multi-threaded translation, and the emulated host dies now and then.
//! * `own`: built from Debian's kernel source with `resources/kernel/bed.config`, everything built in, no run-time
//!   text patching: two CPUs and a faster start, for minutes of building.

mod distro;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use distro::prepare as distro;

/// A kernel ready to boot the bed.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `distro` or `own`.
    pub name: &'static str,
    /// The uncompressed ELF image.
    pub vmlinux: PathBuf,
    /// The directory `lib/modules/RELEASE`; `None` if everything is built in.
    pub modules: Option<PathBuf>,
    /// CPUs it is known to survive.
    pub max_cpus: u32,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// apt knows no such package.
    #[error("apt knows no package named like {0}: run `apt-get update` and look at the bookworm-security entry of /etc/apt/sources.list*")]
    NoPackage(&'static str),
    /// A program failed.
    #[error("`{command}` failed: {reason}")]
    Program {
        /// The command line.
        command: String,
        /// Its status or its last words.
        reason: String,
    },
    /// The kernel image is none, or is compressed in a way nobody here knows.
    #[error("{path} is not a kernel image this program can unpack: {reason}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The cache cannot be used.
    #[error("cannot use {path} of the cache: make it writable, or name another directory in HUTCH_CACHE_DIR")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A kernel image somebody else built, with everything built in and no run-time text patching.
pub fn given(vmlinux: &Path) -> Kernel {
    Kernel { name: "given", vmlinux: vmlinux.to_owned(), modules: None, max_cpus: 2 }
}

/// Directory of the cache: `HUTCH_CACHE_DIR`, else `hutch` below `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).map(|d| d.join("hutch"));
    var("HUTCH_CACHE_DIR").or_else(base).unwrap_or_else(|| "/var/cache/hutch".into())
}

/// Makes `dir` by `fill`ing a temporary neighbour and renaming it, under a lock, so that `dir` is whole or absent
/// whatever happens and two callers do not work twice.
fn fill_once(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), KernelError>) -> Result<(), KernelError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| KernelError::Cache { path, source }
    };
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(error(parent))?;
    let lock = File::create(parent.join(".lock")).map_err(error(parent))?;
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| error(parent)(errno.into()))?;
    if dir.exists() {
        return Ok(());
    }
    let mut partial = dir.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(error(&partial))?;
    }
    fs::create_dir(&partial).map_err(error(&partial))?;
    fill(&partial)?;
    fs::rename(&partial, dir).map_err(error(dir))
}
