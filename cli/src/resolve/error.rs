//! Mistakes on the command line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use hutch_runtime::spec::MIN_MEMORY_MIB;
use hutch_vmm::arch::x86_64::layout::MAX_VCPUS;

/// One variant per mistake. Each message quotes the mistake and gives the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("stdin is not a terminal: omit -t or -i, or run hutch from a terminal")]
    NotATerminal,
    #[error("{what} {text:?} is not UTF-8 text; hutch can pass only UTF-8 to the guest")]
    NotUtf8 { what: &'static str, text: OsString },

    #[error("--cpus {0:?}: give a number from 1 to {MAX_VCPUS}")]
    Cpus(OsString),
    #[error("--memory {0:?} is not a size: give for example 512M or 2G (a plain number is MiB)")]
    MemorySyntax(OsString),
    #[error("--memory: {mib} MiB is too little for a guest: give at least {MIN_MEMORY_MIB}M")]
    MemoryTooSmall { mib: u64 },
    #[error("--memory: {mib} MiB is more than this host has ({host_mib} MiB)")]
    MemoryTooLarge { mib: u64, host_mib: u64 },

    #[error("--rootfs {}: name an existing directory, disk image or block device", .path.display())]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("--rootfs {} is neither a directory nor a disk image or block device", .0.display())]
    RootfsKind(PathBuf),
    #[error("--rootfs {} is not a directory and holds no file system that hutch recognises; create one (mkfs.ext4), or name its type with --rootfs-type", .0.display())]
    RootfsUnknown(PathBuf),
    #[error("--rootfs-type is for a disk image or block device; --rootfs {} is a directory", .0.display())]
    RootfsTypeOfDirectory(PathBuf),
    #[error("--rootfs-type {0:?} is not a file system type; give for example ext4")]
    RootfsType(OsString),
    #[error("{what} {}", .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {} is not a regular file", .path.display())]
    NotAFile { what: &'static str, path: PathBuf },
    #[error("cannot write the console to {}", .path.display())]
    Console { path: PathBuf, source: io::Error },
    #[error("--append: {0:?} has no name before the `=`")]
    AppendWithoutKey(String),

    #[error("-v {0:?}: give SRC:DST or SRC:DST:OPTIONS")]
    VolumeSyntax(OsString),
    #[error("-v: {0:?} is not an option of a volume; give ro, rw, cache=none|auto|always, suid=keep|strip or trusted=on|off")]
    VolumeOption(String),
    #[error("-v: {0:?} is for hutch run: all containers of a pod are in one share of the host. Give it to a volume of the pod in its configuration file")]
    VolumeOptionOfPod(String),
    #[error("-v: source {}", .path.display())]
    VolumeSource { path: PathBuf, source: io::Error },
    #[error("-v: source {} is neither a directory nor a file", .0.display())]
    VolumeSourceKind(PathBuf),
    #[error("destination {0:?} must be an absolute path in the guest, without `..`, and not `/`")]
    Destination(String),
    #[error("destination {0:?} is given twice")]
    DestinationTwice(String),
    #[error("--tmpfs {0:?}: give DST or DST:OPTION,OPTION")]
    TmpfsSyntax(OsString),
    #[error("--disk {}: give a raw image or a block device", .path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("--disk {} is neither a regular file nor a block device", .0.display())]
    DiskKind(PathBuf),

    #[error("-e {0:?}: give NAME=VALUE, or NAME alone to take the value from hutch's environment")]
    EnvSyntax(OsString),
    #[error("--env-file {}", .path.display())]
    EnvFile { path: PathBuf, source: io::Error },
    #[error("--env-file {} line {line}: {text:?} is not NAME=VALUE", .path.display())]
    EnvFileLine { path: PathBuf, line: usize, text: String },

    #[error("the command is empty")]
    EmptyCommand,
    #[error("-w {0:?}: give an absolute path in the guest")]
    Workdir(String),
    #[error("-u {0:?}: give USER or USER:GROUP")]
    User(String),
    #[error("--ulimit {0:?}: give NAME=SOFT or NAME=SOFT:HARD, for example nofile=1024:4096")]
    UlimitSyntax(OsString),
    #[error("--ulimit {0:?} is unknown: use one of {1}")]
    UlimitName(String, String),
    #[error("--ulimit {0}: the soft limit exceeds the hard limit")]
    UlimitOrder(String),

    #[error("--net {0:?}: give none, or tap=NAME with a tap device of this host")]
    Net(OsString),
    #[error("--name {0:?}: use up to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit")]
    Name(OsString),
    #[error("--hostname {0:?}: use up to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit")]
    Hostname(OsString),
    #[error("{flag} {text:?}: give a number of seconds")]
    Seconds { flag: &'static str, text: OsString },
    #[error("the command is missing: give the program and its arguments after `--`")]
    NoCommand,
    #[error("--net {0:?}: give none, nat, or a network namespace of this host as ns=NAME or ns=PATH")]
    PodNet(OsString),
    #[error("--security-opt {0:?}: give seccomp=FILE, seccomp=unconfined or no-new-privileges")]
    SecurityOption(OsString),
    #[error("--annotation {0:?}: give KEY=VALUE")]
    Annotation(OsString),
    #[error("--cpus {0:?}: give a number of at least 0.01, or -1 for no limit")]
    CpuLimit(OsString),
    #[error("cannot read the configuration from stdin")]
    Stdin(#[source] io::Error),
    #[error(transparent)]
    Api(#[from] hutch_runtime::Error),
    #[error("--timeout {0:?}: give a number of seconds above 0")]
    Timeout(OsString),
}
