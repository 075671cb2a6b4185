//! Options of the verbs that describe a container. Values stay text, so that [`crate::resolve`] can report each mistake
//! in its own words.

use std::ffi::OsString;
use std::path::PathBuf;

/// A container without a configuration file: a root file system and a command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ContainerFlags {
    /// Directory, disk image or block device of this host to use as the container's root file system
    #[arg(long, value_name = "DIR|IMAGE", help_heading = "Container")]
    pub rootfs: Option<PathBuf>,
    /// File system type of IMAGE, for example ext4 [default: detected]
    #[arg(long, value_name = "TYPE", requires = "rootfs", help_heading = "Container")]
    pub rootfs_type: Option<OsString>,
    /// Mount the root file system read-only
    #[arg(long, requires = "rootfs", help_heading = "Container")]
    pub read_only: bool,
    /// Mount a directory or file of this host in the container; SRC without a `/` names a volume
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]", requires = "rootfs", help_heading = "Container")]
    pub volumes: Vec<OsString>,
    /// Mount an empty tmpfs, which takes guest memory
    #[arg(long, value_name = "DST[:OPTIONS]", requires = "rootfs", help_heading = "Container")]
    pub tmpfs: Vec<OsString>,
    /// Set an environment variable; without =VALUE, take the value from hutch's environment, or leave it unset if it is not
    /// set there
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", requires = "rootfs", help_heading = "Container")]
    pub env: Vec<OsString>,
    /// Read environment variables from FILE, one NAME[=VALUE] per line
    #[arg(long, value_name = "FILE", requires = "rootfs", help_heading = "Container")]
    pub env_file: Vec<PathBuf>,
    /// Working directory of CMD in the container [default: /]
    #[arg(short = 'w', long, value_name = "DIR", requires = "rootfs", help_heading = "Container")]
    pub workdir: Option<OsString>,
    /// User to run CMD as: names from the root file system, or numbers [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]", requires = "rootfs", help_heading = "Container")]
    pub user: Option<OsString>,
    /// Pass stdin to CMD
    #[arg(short = 'i', long, requires = "rootfs", help_heading = "Container")]
    pub interactive: bool,
    /// Allocate a terminal for CMD
    #[arg(short = 't', long, requires = "rootfs", help_heading = "Container")]
    pub tty: bool,
    /// Terminal device of this host, such as /dev/pts/3, that becomes the standard streams and controlling terminal of CMD
    #[arg(long, value_name = "PATH", requires = "rootfs", help_heading = "Container")]
    pub console: Option<PathBuf>,
    /// Security option: seccomp=FILE (an OCI seccomp profile), seccomp=unconfined, or no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION", requires = "rootfs", help_heading = "Container")]
    pub security: Vec<OsString>,
    /// Write to FILE the PID of the host process that represents the container, once everything else has succeeded
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub pid_file: Option<PathBuf>,
    /// Program and its arguments, after --
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LimitFlags {
    /// CPU limit in CPUs, for example 1.5; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    pub cpus: Option<OsString>,
    /// CPU time in microseconds per period; -1 for no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true, conflicts_with = "cpus", help_heading = "Limits")]
    pub cpu_quota: Option<i64>,
    /// Length of the period of --cpu-quota in microseconds
    #[arg(long, value_name = "US", conflicts_with = "cpus", help_heading = "Limits")]
    pub cpu_period: Option<u64>,
    /// CPU weight relative to the other containers, 2 to 262144
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub cpu_shares: Option<u64>,
    /// Memory limit, with suffix K, M, G or T; a plain number is MiB; -1 for no limit
    #[arg(short = 'm', long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Limits")]
    pub memory: Option<OsString>,
    /// Maximum number of processes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    pub pids_limit: Option<i64>,
}
