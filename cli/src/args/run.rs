//! `hutch run`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::MemoryGrowth;

/// Arguments of `hutch run`. Texts are kept as typed, so that each mistake gets a message of its own later.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Exit code: that of CMD, 128+N if signal N killed it; 124 if --timeout ended it, 125 if hutch \
or the guest failed, 126 if CMD can't be executed, 127 if it does not exist.")]
pub struct RunArgs {
    /// Directory, disk image or block device of this host that becomes the root file system
    #[arg(long, value_name = "DIR|IMAGE", help_heading = "File systems")]
    pub rootfs: PathBuf,
    /// What file system IMAGE holds, for example ext4 [default: what is found in it]
    #[arg(long, value_name = "TYPE", help_heading = "File systems")]
    pub rootfs_type: Option<OsString>,
    /// Mount the root file system read-only
    #[arg(long, conflicts_with = "rootfs_overlay", help_heading = "File systems")]
    pub read_only: bool,
    /// Leave DIR or IMAGE untouched: writes to the root file system go to memory and are lost at the end
    #[arg(long, help_heading = "File systems")]
    pub rootfs_overlay: bool,
    /// Mount a directory or file of this host in the guest; a SRC without `/` is a named volume
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]", help_heading = "File systems")]
    pub volumes: Vec<OsString>,
    /// Mount an empty file system kept in the guest's memory
    #[arg(long, value_name = "DST[:OPTIONS]", help_heading = "File systems")]
    pub tmpfs: Vec<OsString>,
    /// Give the guest a disk with the contents of a raw image or block device
    #[arg(long = "disk", value_name = "PATH[:ro]", help_heading = "File systems")]
    pub disks: Vec<OsString>,

    /// Environment variable; without =VALUE it is taken from hutch's own environment
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", help_heading = "Command")]
    pub env: Vec<OsString>,
    /// Environment variables from a file, one NAME[=VALUE] a line
    #[arg(long, value_name = "FILE", help_heading = "Command")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the guest [default: /]
    #[arg(short = 'w', long, value_name = "DIR", help_heading = "Command")]
    pub workdir: Option<OsString>,
    /// User to run as, names or numbers of the root file system [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]", help_heading = "Command")]
    pub user: Option<OsString>,
    /// Keep stdin open and pass it to the command
    #[arg(short = 'i', long, help_heading = "Command")]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long, help_heading = "Command")]
    pub tty: bool,
    /// Resource limit, for example nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "Command")]
    pub ulimits: Vec<OsString>,
    /// End everything after so many seconds
    #[arg(long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Command")]
    pub timeout: Option<OsString>,

    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Machine")]
    pub cpus: Option<OsString>,
    /// Guest memory, with K, M, G or T; a plain number is MiB [default: 256M]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Machine")]
    pub memory: Option<OsString>,
    /// Whether the machine boots with a part of its memory and has the rest plugged in before CMD starts
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Machine")]
    pub memory_growth: MemoryGrowth,
    /// Name of the machine in logs [default: run-PID]
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    pub name: Option<OsString>,
    /// Host name in the guest [default: hutch, or --name if given]
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    pub hostname: Option<OsString>,
    /// Network: none, or a tap device of this host
    #[arg(long, value_name = "none|tap=NAME", help_heading = "Machine")]
    pub net: Option<OsString>,
    /// Guest kernel: distro, host, source, or the path of a vmlinux or bzImage [default: distro]
    #[arg(long, value_name = "KERNEL", help_heading = "Machine")]
    pub kernel: Option<OsString>,
    /// Initramfs instead of the guest assets' one; hutch's agent must be its /init
    #[arg(long, value_name = "PATH", help_heading = "Machine")]
    pub initrd: Option<PathBuf>,
    /// Words to add to the kernel's command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, help_heading = "Machine")]
    pub append: Vec<OsString>,
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR", help_heading = "Machine")]
    pub guest_dir: Option<PathBuf>,
    /// Write the kernel's console to FILE
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub console: Option<PathBuf>,
    /// Write boot marks and exit counts to FILE at the end, one JSON object a line
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub marks: Option<PathBuf>,
    /// Tell on stderr how long each phase took
    #[arg(long, help_heading = "Machine")]
    pub verbose: bool,

    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
