//! What the verbs that describe a container have in common. Texts are kept as typed, so that each mistake gets a message
//! of its own later.

use std::ffi::OsString;
use std::path::PathBuf;

/// A container without a configuration file: a root file system and a command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ContainerFlags {
    /// Directory, disk image or block device of this host that becomes the container's root file system
    #[arg(long, value_name = "DIR|IMAGE", help_heading = "Container")]
    pub rootfs: Option<PathBuf>,
    /// What file system IMAGE holds, for example ext4 [default: what is found in it]
    #[arg(long, value_name = "TYPE", requires = "rootfs", help_heading = "Container")]
    pub rootfs_type: Option<OsString>,
    /// Mount the root file system read-only
    #[arg(long, requires = "rootfs", help_heading = "Container")]
    pub read_only: bool,
    /// Mount a directory or file of this host in the container; a SRC without `/` is a named volume
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]", requires = "rootfs", help_heading = "Container")]
    pub volumes: Vec<OsString>,
    /// Mount an empty file system kept in the guest's memory
    #[arg(long, value_name = "DST[:OPTIONS]", requires = "rootfs", help_heading = "Container")]
    pub tmpfs: Vec<OsString>,
    /// Environment variable; without =VALUE it is taken from hutch's own environment
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", requires = "rootfs", help_heading = "Container")]
    pub env: Vec<OsString>,
    /// Environment variables from a file, one NAME[=VALUE] a line
    #[arg(long, value_name = "FILE", requires = "rootfs", help_heading = "Container")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the container [default: /]
    #[arg(short = 'w', long, value_name = "DIR", requires = "rootfs", help_heading = "Container")]
    pub workdir: Option<OsString>,
    /// User to run as, names or numbers of the root file system [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]", requires = "rootfs", help_heading = "Container")]
    pub user: Option<OsString>,
    /// Keep stdin open and pass it to the command
    #[arg(short = 'i', long, requires = "rootfs", help_heading = "Container")]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long, requires = "rootfs", help_heading = "Container")]
    pub tty: bool,
    /// Terminal of this host that is connected to the command
    #[arg(long, value_name = "PATH", requires = "rootfs", help_heading = "Container")]
    pub console: Option<PathBuf>,
    /// seccomp=FILE (a profile in the form of the OCI specification), seccomp=unconfined, or no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION", requires = "rootfs", help_heading = "Container")]
    pub security: Vec<OsString>,
    /// Write the PID that stands for the container's process to FILE, last of all
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub pid_file: Option<PathBuf>,
    /// Program and its arguments, after `--`
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LimitFlags {
    /// CPUs it may use, for example 1.5; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    pub cpus: Option<OsString>,
    /// Microseconds of CPU per period; -1 for no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true, conflicts_with = "cpus", help_heading = "Limits")]
    pub cpu_quota: Option<i64>,
    /// The period in microseconds
    #[arg(long, value_name = "US", conflicts_with = "cpus", help_heading = "Limits")]
    pub cpu_period: Option<u64>,
    /// Weight against other containers, 2 to 262144
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub cpu_shares: Option<u64>,
    /// Memory it may use, with K, M, G or T; a plain number is MiB; -1 for no limit
    #[arg(short = 'm', long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Limits")]
    pub memory: Option<OsString>,
    /// Processes it may have; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    pub pids_limit: Option<i64>,
}
