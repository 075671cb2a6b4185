//! `hutch run`: [`RunArgs`] become a [`RunPlan`].

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use hutch_agent_proto::ProcessSpec;
use hutch_guest::{KernelChoice, DEFAULT_DIR, DIR_VARIABLE};
use hutch_runtime::mounts::file_system_of;

use super::error::ResolveError;
use super::host::Host;
use super::mounts::{self, Disk, Tmpfs, Volume};
use super::pod::{seconds, BOOT_TIMEOUT_VARIABLE};
use super::root::{rootfs, rootfs_type, RootSource};
use super::values::{cpus, is_name, kernel, memory, regular_file, utf8, MAX_NAME};
use super::{env, process};
use crate::args::growth::MemoryGrowth;
use crate::args::run::RunArgs;

/// Longest host name that Linux accepts (P-180).
const MAX_HOSTNAME: usize = 64;

/// Time that a guest has until its agent connects, unless the environment says otherwise.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// A checked `hutch run`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    pub name: String,
    pub cpus: u32,
    pub memory_mib: u64,
    pub memory_growth: MemoryGrowth,
    pub kernel: KernelChoice,
    /// Initramfs to use instead of that of the guest assets.
    pub initrd: Option<PathBuf>,
    /// Parameters to add to the kernel command line.
    pub append: Vec<String>,
    /// Directory of the guest assets.
    pub guest_dir: PathBuf,
    /// File for the console's output.
    pub console: Option<PathBuf>,
    pub rootfs: RootSource,
    pub root_mode: RootMode,
    /// Directories and files of the host to mount in the guest.
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<Tmpfs>,
    pub disks: Vec<Disk>,
    /// Tap device of the host; `None`: no network.
    pub tap: Option<String>,
    /// Host name in the guest.
    pub hostname: String,
    /// The command, without the size of its terminal.
    pub process: ProcessSpec,
    /// Whether the command gets a terminal.
    pub tty: bool,
    /// Time that the guest has until its agent connects.
    pub boot_timeout: Duration,
    /// Limit of the whole run.
    pub timeout: Option<Duration>,
    /// Whether to print the phases.
    pub verbose: bool,
    /// Confine the process.
    pub jail: bool,
}

/// How the guest may use the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMode {
    /// Writes reach the host's directory.
    ReadWrite,
    /// Writes fail.
    ReadOnly,
    /// Writes stay in the guest's memory.
    Overlay,
}

/// Gives the arguments of `hutch run` their meaning. Returns the first mistake found.
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
        boot_timeout: boot_timeout(host)?,
        timeout: timeout(args.timeout.as_deref())?,
        verbose: args.verbose,
        jail: !args.no_jail,
    };
    if let Some(path) = &plan.console {
        let source = OpenOptions::new().append(true).create(true).open(path).err();
        if let Some(source) = source {
            return Err(ResolveError::Console { path: path.clone(), source });
        }
    }
    Ok(plan)
}

/// The boot timeout: the environment's, or the usual one.
fn boot_timeout(host: &Host<'_>) -> Result<Duration, ResolveError> {
    match (host.env)(BOOT_TIMEOUT_VARIABLE.as_ref()).filter(|text| !text.is_empty()) {
        Some(text) => seconds(BOOT_TIMEOUT_VARIABLE, &text),
        None => Ok(BOOT_TIMEOUT),
    }
}

/// The root file system of `hutch run`. Detects the file system type of a disk that is given without one.
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

fn timeout(text: Option<&OsStr>) -> Result<Option<Duration>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    let seconds = text.to_str().and_then(|t| t.parse::<f64>().ok()).filter(|s| *s > 0.0);
    match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(ResolveError::Timeout(text.to_owned())),
    }
}
