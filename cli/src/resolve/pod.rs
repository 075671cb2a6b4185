//! `hutch pod create`, `hutch container create` and related verbs: configurations from files or from flags.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_guest::{KernelChoice, DEFAULT_DIR, DIR_VARIABLE};
use hutch_runtime::spec::{
    self, Command, ContainerConfig, EnvVar, Jail, MountSpec, NetworkConfig, NetworkKind, PodConfig, PortForward,
    Seccomp, DEFAULT_MEMORY_MIB,
};
use hutch_runtime::{Limits, Options};
use serde::de::DeserializeOwned;

use super::error::ResolveError;
use super::host::Host;
use super::mounts::{Tmpfs, Volume};
use super::root::{rootfs, rootfs_type};
use super::values::{cpus, kernel, memory, utf8};
use super::{env, mounts, process, size};
use crate::args::container::{ExecArgs, NewContainer};
use crate::args::pod::NewPod;
use crate::args::process::{ContainerFlags, LimitFlags};

/// Environment variable: seconds that a guest may take to write a disk's cached data when its container stops.
const SYNC_TIMEOUT_VARIABLE: &str = "HUTCH_SYNC_TIMEOUT";
const POWER_OFF_TIMEOUT_VARIABLE: &str = "HUTCH_POWER_OFF_TIMEOUT";
/// Environment variable for the default of `--boot-timeout`. `hutch run` reads it too.
pub const BOOT_TIMEOUT_VARIABLE: &str = "HUTCH_BOOT_TIMEOUT";
/// Directory of named network namespaces, as in ip-netns(8).
const NAMED_NAMESPACES: &str = "/run/netns";
/// CPU period that `--cpus` sets, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// A pod to create. Its kernel and initramfs are not chosen yet.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPlan {
    pub config: PodConfig,
    /// The value of `--kernel`.
    pub kernel: Option<KernelChoice>,
    /// Directory of the guest assets.
    pub guest_dir: PathBuf,
    /// Default for the configuration's upper limit of memory, if the guest's kernel supports growth.
    pub max_memory_mib: u64,
}

/// Gives the arguments of `hutch pod create` their meaning.
pub fn pod(args: &NewPod, host: &Host<'_>) -> Result<PodPlan, ResolveError> {
    let mut config: PodConfig = match &args.config {
        Some(path) => read_config(path)?,
        None => PodConfig::default(),
    };
    if let Some(name) = &args.name {
        config.id = utf8("--name", name)?.to_owned();
    }
    if config.id.is_empty() && args.name.is_none() {
        config.id = format!("pod-{}", hutch_runtime::id::random_hex(4)?);
    }
    if let Some(flags) = flags_of(&args.container) {
        let container = container(flags, &config.id, host)?;
        config.containers.push(container);
    }
    if args.cpus.is_some() {
        config.hypervisor.vcpus = cpus(args.cpus.as_deref())?;
    }
    if let Some(slots) = args.block_slots {
        config.hypervisor.block_slots = slots;
    }
    if args.memory.is_some() {
        config.resources.memory_mib = memory(args.memory.as_deref(), host)?;
    }
    if args.max_cpus.is_some() {
        config.hypervisor.max_vcpus = cpus(args.max_cpus.as_deref())?;
    }
    if args.max_memory.is_some() {
        config.hypervisor.max_memory_mib = memory(args.max_memory.as_deref(), host)?;
    }
    if args.net.is_some() || !args.publish.is_empty() {
        network(args.net.as_deref(), &args.publish, &mut config.network)?;
    }
    match &args.hostname {
        Some(name) => config.hostname = utf8("--hostname", name)?.to_owned(),
        None if config.hostname.is_empty() => config.hostname.clone_from(&config.id),
        None => {}
    }
    for text in &args.annotations {
        let (key, value) = utf8("--annotation", text)?
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| ResolveError::Annotation(text.clone()))?;
        config.annotations.insert(key.to_owned(), value.to_owned());
    }
    config.hypervisor.debug |= args.debug;
    if args.no_jail {
        config.hypervisor.jail = Jail::Off;
    }
    if !args.attach {
        config.containers.iter_mut().for_each(|container| container.command.detach = true);
    }
    let variable = || (host.env)(DIR_VARIABLE.as_ref()).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let guest_dir = args.guest_dir.clone().or_else(variable).unwrap_or_else(|| DEFAULT_DIR.into());
    let asked = [config.resources.memory_mib, config.hypervisor.memory_mib, DEFAULT_MEMORY_MIB];
    let at_boot = asked.into_iter().find(|mib| *mib > 0).unwrap_or_default();
    let fixed = config.hypervisor.huge_pages || config.hypervisor.memory_prealloc || at_boot > host.memory_mib;
    Ok(PodPlan {
        max_memory_mib: if fixed { 0 } else { host.memory_mib },
        config,
        kernel: args.kernel.as_deref().map(|text| kernel(Some(text))).transpose()?,
        // The pod's records keep paths below it.
        guest_dir: std::path::absolute(&guest_dir).unwrap_or(guest_dir),
    })
}

/// Gives the arguments of `hutch container create` their meaning.
pub fn new_container(args: &NewContainer, host: &Host<'_>) -> Result<ContainerConfig, ResolveError> {
    let mut config: ContainerConfig = match &args.config {
        Some(path) => read_config(path)?,
        None => ContainerConfig::default(),
    };
    if let Some(name) = &args.name {
        config.id = utf8("--name", name)?.to_owned();
    }
    if config.id.is_empty() && args.name.is_none() {
        config.id = format!("container-{}", hutch_runtime::id::random_hex(4)?);
    }
    if let Some(flags) = flags_of(&args.container) {
        config = container(flags, &config.id, host)?;
    }
    let limits = limits(&args.limits)?;
    config.resources.merge(&limits);
    if !args.attach {
        config.command.detach = true;
    }
    Ok(config)
}

/// The command of `hutch container exec`.
pub fn exec(args: &ExecArgs, host: &Host<'_>) -> Result<Command, ResolveError> {
    if args.tty && args.interactive && args.console.is_none() && !args.detach && !host.stdin_tty {
        return Err(ResolveError::NotATerminal);
    }
    Ok(Command {
        args: words(&args.command)?,
        env: variables(&args.env, &args.env_file, args.tty, host)?,
        cwd: process::workdir(args.workdir.as_deref())?,
        user: process::user(args.user.as_deref())?,
        interactive: args.tty,
        stdin: args.interactive && !args.detach,
        console: args.console.as_deref().map(absolute),
        detach: args.detach,
        ..Command::default()
    })
}

/// Gives the limit flags of a container their meaning.
pub fn limits(flags: &LimitFlags) -> Result<Limits, ResolveError> {
    let mut limits = Limits {
        cpu_quota: flags.cpu_quota,
        cpu_period: flags.cpu_period,
        cpu_shares: flags.cpu_shares,
        pids: flags.pids_limit,
        memory: flags.memory.as_deref().map(memory_limit).transpose()?,
        ..Limits::default()
    };
    if let Some(text) = &flags.cpus {
        let bad = || ResolveError::CpuLimit(text.clone());
        let cpus: f64 = utf8("--cpus", text)?.parse().map_err(|_| bad())?;
        limits.cpu_period = Some(CPU_PERIOD_US);
        limits.cpu_quota = Some(match cpus {
            -1.0 => -1,
            // The kernel refuses a quota below a millisecond.
            cpus if (0.01..=4096.0).contains(&cpus) => (cpus * CPU_PERIOD_US as f64).round() as i64,
            _ => return Err(bad()),
        });
    }
    Ok(limits)
}

/// The timeouts of the runtime, from flags and environment.
pub fn options(
    boot: Option<&OsStr>,
    stop: Option<&OsStr>,
    own: &dyn Fn(&OsStr) -> Option<OsString>,
) -> Result<Options, ResolveError> {
    let mut options = Options::default();
    let variable = own(BOOT_TIMEOUT_VARIABLE.as_ref()).filter(|text| !text.is_empty());
    if let Some(text) = boot.map(ToOwned::to_owned).or(variable) {
        options.boot_timeout = seconds("--boot-timeout", &text)?;
        // A host that boots slowly does everything slowly.
        options.agent_timeout = options.agent_timeout.max(options.boot_timeout);
    }
    if let Some(text) = own(SYNC_TIMEOUT_VARIABLE.as_ref()).filter(|text| !text.is_empty()) {
        options.sync_timeout = seconds(SYNC_TIMEOUT_VARIABLE, &text)?;
    }
    if let Some(text) = own(POWER_OFF_TIMEOUT_VARIABLE.as_ref()).filter(|text| !text.is_empty()) {
        options.power_off_timeout = seconds(POWER_OFF_TIMEOUT_VARIABLE, &text)?;
    }
    if let Some(text) = stop {
        options.stop_timeout = seconds("--timeout", text)?;
        // A stop holds the lock of the pod until it is done.
        options.lock_timeout = options.lock_timeout.max(options.stop_timeout.saturating_add(options.kill_timeout));
    }
    Ok(options)
}

/// Parses a number of seconds, 0 or more.
pub fn seconds(flag: &'static str, text: &OsStr) -> Result<Duration, ResolveError> {
    let seconds = text.to_str().and_then(|t| t.parse::<f64>().ok());
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| ResolveError::Seconds { flag, text: text.to_owned() })
}

/// Reads a configuration. The file's name decides between TOML and JSON; for stdin, the contents decide.
fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, ResolveError> {
    if path != Path::new("-") {
        return Ok(spec::from_file(path)?);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(ResolveError::Stdin)?;
    Ok(match text.trim_start().starts_with('{') {
        true => spec::from_json(&text)?,
        false => spec::from_toml(&text)?,
    })
}

/// The flags of a container, if `--rootfs` is given.
fn flags_of(flags: &ContainerFlags) -> Option<(&ContainerFlags, &Path)> {
    flags.rootfs.as_deref().map(|rootfs| (flags, rootfs))
}

fn container(
    (flags, root): (&ContainerFlags, &Path),
    id: &str,
    host: &Host<'_>,
) -> Result<ContainerConfig, ResolveError> {
    let volumes = flags.volumes.iter().map(|text| Volume::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let tmpfs = flags.tmpfs.iter().map(|text| Tmpfs::parse(text)).collect::<Result<Vec<_>, _>>()?;
    mounts::check_destinations(&volumes, &tmpfs)?;
    let mut all = Vec::new();
    for volume in volumes {
        if let Some(option) = volume.policy_options.into_iter().next() {
            return Err(ResolveError::VolumeOptionOfPod(option));
        }
        let mode = if volume.read_only { "ro" } else { "rw" };
        let (kind, source, options) = match &volume.name {
            Some(name) => ("volume", name.as_str(), vec![mode]),
            None => ("bind", utf8("-v source", volume.source.as_os_str())?, vec!["rbind", mode]),
        };
        all.push(MountSpec {
            source: source.to_owned(),
            destination: volume.target,
            kind: kind.into(),
            options: options.into_iter().map(str::to_owned).collect(),
            read_only: volume.read_only,
            host_path: None,
        });
    }
    all.extend(tmpfs.into_iter().map(|tmpfs| MountSpec {
        source: "tmpfs".into(),
        destination: tmpfs.target,
        kind: "tmpfs".into(),
        options: tmpfs.options,
        ..MountSpec::default()
    }));
    let (seccomp, no_new_privileges) = security(&flags.security)?;
    // Mount outer directories first, or they would hide inner ones.
    all.sort_by_key(|mount| mount.destination.matches('/').count());
    Ok(ContainerConfig {
        id: id.to_owned(),
        rootfs: fs::canonicalize(rootfs(root)?.path())
            .map_err(|source| ResolveError::Rootfs { path: root.to_owned(), source })?,
        rootfs_type: rootfs_type(flags.rootfs_type.as_deref())?.unwrap_or_default(),
        readonly_rootfs: flags.read_only,
        command: Command {
            args: words(&flags.command)?,
            env: variables(&flags.env, &flags.env_file, flags.tty, host)?,
            cwd: process::workdir(flags.workdir.as_deref())?,
            user: process::user(flags.user.as_deref())?,
            interactive: flags.tty,
            stdin: flags.interactive,
            console: flags.console.as_deref().map(absolute),
            no_new_privileges,
            ..Command::default()
        },
        mounts: all,
        seccomp,
        ..ContainerConfig::default()
    })
}

/// The seccomp profile and no-new-privileges. The last of several contradictory options wins.
fn security(options: &[OsString]) -> Result<(Option<Seccomp>, bool), ResolveError> {
    let (mut seccomp, mut no_new_privileges) = (None, false);
    for text in options {
        let bad = || ResolveError::SecurityOption(text.clone());
        let option = utf8("--security-opt", text)?;
        match option.split_once('=').unwrap_or((option, "")) {
            ("seccomp", "unconfined") => seccomp = None,
            ("seccomp", file) if !file.is_empty() => seccomp = Some(Seccomp::File(absolute(Path::new(file)))),
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            _ => return Err(bad()),
        }
    }
    Ok((seccomp, no_new_privileges))
}

fn words(words: &[OsString]) -> Result<Vec<String>, ResolveError> {
    let words: Vec<String> =
        words.iter().map(|word| utf8("command word", word).map(str::to_owned)).collect::<Result<_, _>>()?;
    match words.first() {
        None => Err(ResolveError::NoCommand),
        Some(program) if program.is_empty() => Err(ResolveError::EmptyCommand),
        Some(_) => Ok(words),
    }
}

fn variables(typed: &[OsString], files: &[PathBuf], tty: bool, host: &Host<'_>) -> Result<Vec<EnvVar>, ResolveError> {
    let all = env::resolve(typed, files, tty, host.env)?;
    // The records and OCI documents of pods are text.
    let variable = |(name, value): (String, OsString)| {
        let value = utf8("value of -e", &value)?.to_owned();
        Ok(EnvVar { name, value })
    };
    all.into_iter().map(variable).collect()
}

fn network(text: Option<&OsStr>, publish: &[OsString], config: &mut NetworkConfig) -> Result<(), ResolveError> {
    if let Some(text) = text {
        let word = utf8("--net", text)?;
        (config.kind, config.namespace) = match (word, word.strip_prefix("ns=")) {
            ("none", _) => (NetworkKind::None, None),
            ("nat", _) => (NetworkKind::Nat, None),
            (_, Some(name)) if !name.is_empty() => (NetworkKind::Scan, Some(namespace(name))),
            _ => return Err(ResolveError::PodNet(text.to_owned())),
        };
    } else if config.kind == NetworkKind::None {
        config.kind = NetworkKind::Nat;
    }
    for text in publish {
        config.publish.push(PortForward::parse(utf8("-p", text)?)?);
    }
    Ok(())
}

fn namespace(name: &str) -> PathBuf {
    match name.contains('/') {
        true => absolute(Path::new(name)),
        false => Path::new(NAMED_NAMESPACES).join(name),
    }
}

fn memory_limit(text: &OsStr) -> Result<i64, ResolveError> {
    let bad = || ResolveError::MemorySyntax(text.to_owned());
    match text.to_str().ok_or_else(bad)? {
        "-1" | "unlimited" => Ok(-1),
        word => {
            let mib = size::mib(word).filter(|mib| *mib > 0).ok_or_else(bad)?;
            mib.checked_mul(1 << 20).and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(bad)
        }
    }
}

/// An absolute path: other processes of hutch have other working directories.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
