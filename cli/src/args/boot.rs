//! `hutch boot`.

use std::path::PathBuf;

/// Arguments of `hutch boot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The console is hutch's stdout. Exit code: 0 if the guest powered off or reset itself, or \
SIGTERM or SIGINT ended it; 125 if it failed.")]
pub struct BootArgs {
    /// vmlinux or bzImage
    #[arg(long, value_name = "PATH")]
    pub kernel: PathBuf,
    /// Initial ram disk
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Words to add to the kernel's command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Virtual CPUs that the guest is to expect later; none comes by itself
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_cpus: u32,
    /// Guest memory, with K, M, G or T; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: String,
    /// Boot with a part of the memory; the rest is plugged in when the guest marks that it is ready (a byte A written
    /// to I/O port 0xE9). The kernel needs CONFIG_VIRTIO_MEM
    #[arg(long)]
    pub memory_growth: bool,
    /// Raw disk image or block device
    #[arg(long = "disk", value_name = "PATH[:ro]")]
    pub disks: Vec<PathBuf>,
    /// A silent console: alerts and panics only, and no ttyS0 in the guest
    #[arg(long)]
    pub silent: bool,
    /// How the guest finds its devices
    #[arg(long, value_enum, default_value_t = Discovery::Acpi)]
    pub discovery: Discovery,
    /// How kernel and initrd come into guest memory
    #[arg(long, value_enum, default_value_t = Loading::Auto)]
    pub loading: Loading,
    /// End after so many seconds, as a failure
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    /// Write boot marks and exit counts to FILE at the end, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub marks: Option<PathBuf>,
}

/// See [`hutch_vmm`]'s `DeviceDiscovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Discovery {
    /// Tables, as every distribution kernel wants it.
    Acpi,
    /// Kernel parameters, for kernels with VIRTIO_MMIO_CMDLINE_DEVICES.
    Cmdline,
}

/// See [`hutch_vmm`]'s `ImageLoading`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Loading {
    /// Copied, but what a guest hardly touches is mapped if the file can be leased.
    Auto,
    /// They are copied.
    Copy,
    /// Their pages are mapped from the page cache, and shared by all machines until written; do not change files on which
    /// there is no lease to be had.
    Map,
}
