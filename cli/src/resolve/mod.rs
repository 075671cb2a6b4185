//! What the command line means: [`RunArgs`] become a [`RunPlan`], or an error that names the thing and the remedy.
//!
//! Everything that can be found wrong before a machine exists is found here. Nothing is changed on the host, except
//! that the console file is created.

mod env;
mod error;
mod mounts;
pub mod pod;
mod process;
pub mod size;
#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::ProcessSpec;
use hutch_guest::{KernelChoice, DEFAULT_DIR, DIR_VARIABLE};
use hutch_runtime::mounts::file_system_of;
use hutch_vmm::arch::x86_64::layout::MAX_VCPUS;

use nix::sys::sysinfo::sysinfo;

use crate::args::run::RunArgs;
use crate::args::MemoryGrowth;
pub use error::ResolveError;
pub use hutch_guest::guest_dir;
pub use mounts::{Disk, Tmpfs, Volume};
pub use pod::PodPlan;
pub use process::ulimit;

/// The least memory in which the guest kernel and the agent come up.
pub const MIN_MEMORY_MIB: u64 = 48;
/// Memory unless something else is said.
const DEFAULT_MEMORY_MIB: u64 = 256;
/// Longest host name Linux takes (P-180).
const MAX_HOSTNAME: usize = 64;
/// Longest machine name; it is part of thread names and log lines.
const MAX_NAME: usize = 64;

/// What `hutch run` is to do, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// Machine's name.
    pub name: String,
    /// vCPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// Whether it is plugged in later.
    pub memory_growth: MemoryGrowth,
    /// Guest kernel.
    pub kernel: KernelChoice,
    /// Initramfs in place of the assets' one.
    pub initrd: Option<PathBuf>,
    /// Words for the kernel's command line.
    pub append: Vec<String>,
    /// Where the guest assets are.
    pub guest_dir: PathBuf,
    /// Console output goes here.
    pub console: Option<PathBuf>,
    /// Root file system.
    pub rootfs: RootSource,
    /// What may happen to it.
    pub root_mode: RootMode,
    /// Directories and files of the host in the guest.
    pub volumes: Vec<Volume>,
    /// In-memory file systems in the guest.
    pub tmpfs: Vec<Tmpfs>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Tap device of the host; `None`: no network.
    pub tap: Option<String>,
    /// Host name in the guest.
    pub hostname: String,
    /// The command. Its terminal's size is filled in later.
    pub process: ProcessSpec,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Bound of the whole run.
    pub timeout: Option<Duration>,
    /// Whether phases are told.
    pub verbose: bool,
}

/// What the root file system is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A directory.
    Directory(PathBuf),
    /// A disk image or block device.
    Disk {
        /// Its path.
        path: PathBuf,
        /// The file system on it; empty where that is not known yet.
        fstype: String,
    },
}

impl RootSource {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            RootSource::Directory(path) | RootSource::Disk { path, .. } => path,
        }
    }
}

/// What the guest may do to the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMode {
    /// Writes reach the host's directory.
    ReadWrite,
    /// Writes fail.
    ReadOnly,
    /// Writes stay in the guest's memory.
    Overlay,
}

/// What resolution needs to know about the host.
pub struct Host<'a> {
    /// Memory of the host.
    pub memory_mib: u64,
    /// Environment of hutch.
    pub env: &'a dyn Fn(&OsStr) -> Option<OsString>,
    /// Whether stdin is a terminal.
    pub stdin_tty: bool,
    /// This process.
    pub pid: u32,
}

/// Memory of this host in MiB.
///
/// # Errors
/// That of sysinfo(2).
pub fn memory_of_host() -> io::Result<u64> {
    Ok(sysinfo()?.ram_total() >> 20)
}

/// Gives the arguments of `hutch run` their meaning.
///
/// # Errors
/// One variant of [`ResolveError`] per mistake; the first one found.
pub fn run(args: RunArgs, host: &Host<'_>) -> Result<RunPlan, ResolveError> {
    if args.tty && args.interactive && !host.stdin_tty {
        return Err(ResolveError::NotATerminal);
    }
    let cpus = cpus(args.cpus.as_deref())?;
    let memory_mib = memory(args.memory.as_deref(), host)?;
    let rootfs = root_of_run(&args)?;
    let volumes = args.volumes.iter().map(|text| Volume::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let tmpfs = args.tmpfs.iter().map(|text| Tmpfs::parse(text)).collect::<Result<Vec<_>, _>>()?;
    mounts::check_destinations(&volumes, &tmpfs)?;
    let disks = args.disks.iter().map(|text| Disk::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let name = name(args.name.as_deref())?;
    let hostname = hostname(args.hostname.as_deref(), name.as_deref())?;
    let env = env::resolve(&args.env, &args.env_file, args.tty, host.env)?;
    let process = process::resolve(&args, env)?;
    let guest_dir =
        args.guest_dir.or_else(|| (host.env)(DIR_VARIABLE.as_ref()).filter(|d| !d.is_empty()).map(Into::into));
    let plan = RunPlan {
        name: name.unwrap_or_else(|| format!("run-{}", host.pid)),
        cpus,
        memory_mib,
        memory_growth: args.memory_growth,
        kernel: kernel(args.kernel.as_deref())?,
        initrd: args.initrd.map(|path| regular_file("initramfs", &path).map(|()| path)).transpose()?,
        append: append(&args.append)?,
        guest_dir: guest_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DIR)),
        console: args.console,
        rootfs,
        root_mode: match (args.read_only, args.rootfs_overlay) {
            (_, true) => RootMode::Overlay,
            (true, false) => RootMode::ReadOnly,
            (false, false) => RootMode::ReadWrite,
        },
        volumes,
        tmpfs,
        disks,
        tap: tap(args.net.as_deref())?,
        hostname,
        process,
        tty: args.tty,
        timeout: timeout(args.timeout.as_deref())?,
        verbose: args.verbose,
    };
    if let Some(path) = &plan.console {
        let source = OpenOptions::new().append(true).create(true).open(path).err();
        if let Some(source) = source {
            return Err(ResolveError::Console { path: path.clone(), source });
        }
    }
    Ok(plan)
}

/// `text` as UTF-8; `what` names it for people.
fn utf8<'a>(what: &'static str, text: &'a OsStr) -> Result<&'a str, ResolveError> {
    let text = text.to_str().ok_or_else(|| ResolveError::NotUtf8 { what, text: text.to_owned() })?;
    match text.contains('\0') {
        true => Err(ResolveError::NotUtf8 { what, text: text.into() }),
        false => Ok(text),
    }
}

fn cpus(text: Option<&OsStr>) -> Result<u32, ResolveError> {
    let Some(text) = text else { return Ok(1) };
    match text.to_str().and_then(|t| t.parse().ok()) {
        Some(cpus) if (1..=MAX_VCPUS).contains(&cpus) => Ok(cpus),
        _ => Err(ResolveError::Cpus(text.to_owned())),
    }
}

fn memory(text: Option<&OsStr>, host: &Host<'_>) -> Result<u64, ResolveError> {
    let Some(text) = text else { return Ok(DEFAULT_MEMORY_MIB) };
    let mib = text.to_str().and_then(size::mib).ok_or_else(|| ResolveError::MemorySyntax(text.to_owned()))?;
    if mib < MIN_MEMORY_MIB {
        return Err(ResolveError::MemoryTooSmall { mib });
    }
    if mib > host.memory_mib {
        return Err(ResolveError::MemoryTooLarge { mib, host_mib: host.memory_mib });
    }
    Ok(mib)
}

/// A directory, or a disk whose file system nobody has looked at yet. It can be read.
fn rootfs(path: &Path) -> Result<RootSource, ResolveError> {
    let fail = |source| ResolveError::Rootfs { path: path.to_owned(), source };
    let kind = path.metadata().map_err(fail)?.file_type();
    match () {
        () if kind.is_dir() => path.read_dir().map(|_| RootSource::Directory(path.to_owned())).map_err(fail),
        () if kind.is_file() || kind.is_block_device() => {
            File::open(path).map_err(fail)?;
            Ok(RootSource::Disk { path: path.to_owned(), fstype: String::new() })
        }
        () => Err(ResolveError::RootfsKind(path.to_owned())),
    }
}

/// A name of a file system, if there is one.
fn rootfs_type(text: Option<&OsStr>) -> Result<Option<String>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    match text.to_str() {
        Some(name) if !name.is_empty() && is_name(name, MAX_NAME) => Ok(Some(name.to_owned())),
        _ => Err(ResolveError::RootfsType(text.to_owned())),
    }
}

/// The root of `hutch run`, with the file system of a disk.
fn root_of_run(args: &RunArgs) -> Result<RootSource, ResolveError> {
    let asked = rootfs_type(args.rootfs_type.as_deref())?;
    match (rootfs(&args.rootfs)?, asked) {
        (RootSource::Directory(path), Some(_)) => Err(ResolveError::RootfsTypeOfDirectory(path)),
        (RootSource::Disk { path, .. }, Some(fstype)) => Ok(RootSource::Disk { path, fstype }),
        (RootSource::Disk { path, .. }, None) => match file_system_of(&path) {
            Ok(Some(fstype)) => Ok(RootSource::Disk { path, fstype: fstype.into() }),
            Ok(None) => Err(ResolveError::RootfsUnknown(path)),
            Err(source) => Err(ResolveError::Rootfs { path, source }),
        },
        (directory, None) => Ok(directory),
    }
}

fn kernel(text: Option<&OsStr>) -> Result<KernelChoice, ResolveError> {
    let Some(text) = text else { return Ok(KernelChoice::default()) };
    let choice = match text.to_str() {
        Some(word) => word.parse().unwrap_or_else(|never: Infallible| match never {}),
        None => KernelChoice::Path(text.into()),
    };
    if let KernelChoice::Path(path) = &choice {
        regular_file("kernel", path)?;
    }
    Ok(choice)
}

/// The file is there and can be read.
fn regular_file(what: &'static str, path: &Path) -> Result<(), ResolveError> {
    let fail = |source| ResolveError::File { what, path: path.to_owned(), source };
    let meta = File::open(path).and_then(|file| file.metadata()).map_err(fail)?;
    match meta.is_file() {
        true => Ok(()),
        false => Err(ResolveError::NotAFile { what, path: path.to_owned() }),
    }
}

fn append(words: &[OsString]) -> Result<Vec<String>, ResolveError> {
    let mut all = Vec::new();
    for text in words {
        all.extend(utf8("--append", text)?.split_whitespace().map(str::to_owned));
    }
    match all.iter().find(|word| word.starts_with('=')) {
        Some(word) => Err(ResolveError::AppendWithoutKey(word.clone())),
        None => Ok(all),
    }
}

fn tap(text: Option<&OsStr>) -> Result<Option<String>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    if text == "none" {
        return Ok(None);
    }
    // Names of interfaces: at most 15 bytes, neither `/` nor white space.
    match text.to_str().and_then(|t| t.strip_prefix("tap=")) {
        Some(name) if (1..=15).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace()) => {
            Ok(Some(name.to_owned()))
        }
        _ => Err(ResolveError::Net(text.to_owned())),
    }
}

fn name(text: Option<&OsStr>) -> Result<Option<String>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    match text.to_str() {
        Some(name) if is_name(name, MAX_NAME) => Ok(Some(name.to_owned())),
        _ => Err(ResolveError::Name(text.to_owned())),
    }
}

fn hostname(text: Option<&OsStr>, name: Option<&str>) -> Result<String, ResolveError> {
    match text {
        None => Ok(name.unwrap_or("hutch").to_owned()),
        Some(text) => match text.to_str() {
            Some(hostname) if is_name(hostname, MAX_HOSTNAME) => Ok(hostname.to_owned()),
            _ => Err(ResolveError::Hostname(text.to_owned())),
        },
    }
}

/// Letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
fn is_name(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn timeout(text: Option<&OsStr>) -> Result<Option<Duration>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    let seconds = text.to_str().and_then(|t| t.parse::<f64>().ok()).filter(|s| *s > 0.0);
    match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(ResolveError::Timeout(text.to_owned())),
    }
}
