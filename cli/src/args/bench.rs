//! `hutch bench`.

use std::path::PathBuf;

/// Measure boots, of hutch and of other programs in the same run.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: BenchCommand,
}

/// Kinds of measurement.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Time cold boots from spawn to the guest's init, or to a command's output
    Boot(Box<BootBenchArgs>),
    /// Count the memory of idle virtual machines and how fast they can be started
    Density(DensityArgs),
    /// Tell whether two measurements differ, with a 95 % confidence interval
    Compare {
        /// Results of `--format json`
        before: PathBuf,
        /// Results of `--format json`
        after: PathBuf,
    },
}

/// Arguments of `hutch bench boot`.
#[derive(Debug, clap::Args)]
pub struct BootBenchArgs {
    /// Guest kernel: distro, source, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Initrd; without it a minimal one whose init writes the mark and waits
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Where guest kernels are kept [env: HUTCH_GUEST_DIR]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Words to add to every target's kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Also time `hutch run` of CMD from this root directory, from spawn to exit
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Another program in the same run: a command with {kernel} {initrd} {cmdline} {memory_mib} {cpus}, or without
    /// {kernel} any command that is timed to its exit; {{ and }} are braces. Built in are @qemu-microvm, @firecracker,
    /// @cloud-hypervisor and @crosvm
    #[arg(long = "peer", value_name = "NAME=COMMAND", allow_hyphen_values = true)]
    pub peers: Vec<String>,
    /// Also boot hutch with a serial console, as the peers do; without this only with its usual, silent one
    #[arg(long)]
    pub serial: bool,
    /// Only peers and `hutch run`, not the bare boot
    #[arg(long)]
    pub no_boot: bool,
    /// Boot with all memory at once, whatever `hutch run` would do
    #[arg(long)]
    pub no_growth: bool,
    /// Arguments for the hutch under test, such as --discovery cmdline
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub hutch_args: Vec<String>,
    /// Vary one setting: mem=128M..8G (doubling) or mem=A,B,…; cpus=1,2,4; kernel=distro,source. Of `hutch run` only:
    /// devices=none,net,block,fs,console,net+fs; rootfs=dir,read-only,overlay,PATH
    #[arg(long, value_name = "WHAT=VALUES")]
    pub sweep: Option<String>,
    /// Kept rounds
    #[arg(long, short = 'n', default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Rounds before them that are not counted
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub warm_up: u32,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=254))]
    pub cpus: u32,
    /// Guest memory
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,
    /// A run that takes longer than this is an error
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u64,
    /// How the results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Do not count system calls, which takes one more run of each target
    #[arg(long)]
    pub no_syscalls: bool,
    /// Measure nothing: tell whether two results of `--format json` differ, as `hutch bench compare` does
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    pub compare: Option<Vec<PathBuf>>,
    /// Draw phases and the distribution of runs
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Program and arguments for --rootfs [default: /bin/echo hi]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `hutch bench density`.
#[derive(Debug, clap::Args)]
pub struct DensityArgs {
    /// Guest kernel: distro, source, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Where guest kernels are kept [env: HUTCH_GUEST_DIR]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Numbers of virtual machines that idle side by side
    #[arg(long, short = 'n', value_name = "N,…", value_delimiter = ',', default_value = "1,5,10")]
    pub counts: Vec<u32>,
    /// Guest memory of each
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,
    /// A start that takes longer than this is an error
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub timeout: u64,
    /// How the results are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For `hutch bench compare` and programs.
    Json,
    /// For spreadsheets.
    Csv,
}
