//! `hutch run`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::growth::MemoryGrowth;

/// Arguments of `hutch run`. Values stay text, so that [`crate::resolve`] can report each mistake in its own words.
#[derive(Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Directory, disk image or block device of this host to use as the root file system
    #[arg(long, value_name = "DIR|IMAGE", help_heading = "File systems")]
    pub rootfs: PathBuf,
    /// File system type of IMAGE, for example ext4 [default: detected]
    #[arg(long, value_name = "TYPE", help_heading = "File systems")]
    pub rootfs_type: Option<OsString>,
    /// Mount the root file system read-only
    #[arg(long, conflicts_with = "rootfs_overlay", help_heading = "File systems")]
    pub read_only: bool,
    /// Keep writes to the root file system in guest memory and discard them at the end; DIR or IMAGE stays unchanged
    #[arg(long, help_heading = "File systems")]
    pub rootfs_overlay: bool,
    /// Mount a directory or file of this host in the guest; SRC without a `/` names a volume. OPTIONS, with commas: ro;
    /// cache=none, auto or always; suid=keep or strip; trusted=on or off
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:OPTIONS]", help_heading = "File systems")]
    pub volumes: Vec<OsString>,
    /// Mount an empty tmpfs, which takes guest memory
    #[arg(long, value_name = "DST[:OPTIONS]", help_heading = "File systems")]
    pub tmpfs: Vec<OsString>,
    /// Add a disk: a raw image or block device; :ro makes it read-only
    #[arg(long = "disk", value_name = "PATH[:ro]", help_heading = "File systems")]
    pub disks: Vec<OsString>,

    /// Set an environment variable; without =VALUE, take the value from hutch's environment, or leave it unset if it is not
    /// set there
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", help_heading = "Command")]
    pub env: Vec<OsString>,
    /// Read environment variables from FILE, one NAME[=VALUE] per line
    #[arg(long, value_name = "FILE", help_heading = "Command")]
    pub env_file: Vec<PathBuf>,
    /// Working directory of CMD [default: /]
    #[arg(short = 'w', long, value_name = "DIR", help_heading = "Command")]
    pub workdir: Option<OsString>,
    /// User to run CMD as: names from the root file system, or numbers [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]", help_heading = "Command")]
    pub user: Option<OsString>,
    /// Pass stdin to CMD
    #[arg(short = 'i', long, help_heading = "Command")]
    pub interactive: bool,
    /// Allocate a terminal for CMD
    #[arg(short = 't', long, help_heading = "Command")]
    pub tty: bool,
    /// Set a resource limit, for example nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "Command")]
    pub ulimits: Vec<OsString>,
    /// Stop the guest after SECS seconds; fractions are allowed [default: no limit]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Command")]
    pub timeout: Option<OsString>,

    /// Number of virtual CPUs [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Machine")]
    pub cpus: Option<OsString>,
    /// Guest memory, with suffix K, M, G or T; a plain number is MiB [default: 256M]
    #[arg(short = 'm', long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Machine")]
    pub memory: Option<OsString>,
    /// Boot with a part of the memory, and plug in the rest before CMD starts
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Machine")]
    pub memory_growth: MemoryGrowth,
    /// Name of the virtual machine in logs [default: run-PID]
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    pub name: Option<OsString>,
    /// Host name in the guest [default: hutch, or --name if given]
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    pub hostname: Option<OsString>,
    /// Network: none, or a tap device of this host [default: none]
    #[arg(long, value_name = "none|tap=NAME", help_heading = "Machine")]
    pub net: Option<OsString>,
    /// Guest kernel: distro, host, source, or the path of a vmlinux or bzImage [default: distro]
    #[arg(long, value_name = "KERNEL", help_heading = "Machine")]
    pub kernel: Option<OsString>,
    /// Initramfs to use instead of the built one; its /init must be hutch's agent
    #[arg(long, value_name = "PATH", help_heading = "Machine")]
    pub initrd: Option<PathBuf>,
    /// Parameters to add to the kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, help_heading = "Machine")]
    pub append: Vec<OsString>,
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR", help_heading = "Machine")]
    pub guest_dir: Option<PathBuf>,
    /// Log file: append what the guest kernel prints on its console to FILE; CMD does not use that console
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub console: Option<PathBuf>,
    /// Write boot marks and exit counts to FILE at the end, one JSON object per line
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub marks: Option<PathBuf>,
    /// Do not confine the process that holds the machine; for debugging
    #[arg(long, help_heading = "Machine")]
    pub no_jail: bool,
    /// Print the duration of each phase to stderr
    #[arg(long, help_heading = "Machine")]
    pub verbose: bool,

    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
