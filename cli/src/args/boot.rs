//! `hutch boot`.

use std::path::PathBuf;

/// Arguments of `hutch boot`.
#[derive(Debug, clap::Args)]
pub struct BootArgs {
    /// Guest kernel: a vmlinux or bzImage
    #[arg(long, value_name = "PATH")]
    pub kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Parameters to add to the kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Maximum number of virtual CPUs to announce to the guest; 0 means the value of --cpus. `hutch boot` adds none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_cpus: u32,
    /// Guest memory, with suffix K, M, G or T; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: String,
    /// Boot with a part of the memory, and plug in the rest when the guest marks that it is ready (it writes the byte A
    /// to I/O port 0xE9). The kernel needs CONFIG_VIRTIO_MEM
    #[arg(long)]
    pub memory_growth: bool,
    /// Add a disk: a raw image or block device; :ro makes it read-only
    #[arg(long = "disk", value_name = "PATH[:ro]")]
    pub disks: Vec<PathBuf>,
    /// Print alerts and panics only; the guest gets no ttyS0
    #[arg(long)]
    pub silent: bool,
    /// How the guest discovers its devices
    #[arg(long, value_enum, default_value_t = Discovery::Acpi)]
    pub discovery: Discovery,
    /// How the kernel and initrd get into guest memory
    #[arg(long, value_enum, default_value_t = Loading::Auto)]
    pub loading: Loading,
    /// Do not confine the process that holds the machine; for debugging
    #[arg(long)]
    pub no_jail: bool,
    /// Fail if the guest still runs after SECS seconds
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    /// Write boot marks and exit counts to FILE at the end, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub marks: Option<PathBuf>,
}

/// Values of `--discovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Discovery {
    /// ACPI tables, which every distribution kernel reads
    Acpi,
    /// Kernel parameters, for kernels with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES
    Cmdline,
}

/// Values of `--loading`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Loading {
    /// Copy, but map the parts that guests hardly touch if hutch can lease the file
    Auto,
    /// Copy the files
    Copy,
    /// Map the files' page cache, which all machines share until they write to it. Do not change a file that hutch
    /// cannot lease
    Map,
}
