//! `hutch bench`.

use std::path::PathBuf;

use super::help;

/// Arguments of `hutch bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: BenchCommand,
}

/// The verbs of `hutch bench`.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Time cold boots, from spawn to the guest's init or to a command's exit
    #[command(after_help = help::BENCH_BOOT)]
    Boot(Box<BootBenchArgs>),
    /// Measure the memory of idle virtual machines and the rate at which they start
    #[command(after_help = help::BENCH_DENSITY)]
    Density(DensityArgs),
    /// Test whether two measurements differ, with a 95 % confidence interval
    #[command(after_help = help::BENCH_COMPARE)]
    Compare {
        /// Earlier results, written with --format json
        before: PathBuf,
        /// Later results, written with --format json
        after: PathBuf,
    },
}

/// Arguments of `hutch bench boot`.
#[derive(Debug, clap::Args)]
pub struct BootBenchArgs {
    /// Guest kernel: distro, source, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Initrd [default: a minimal one whose init reports its time and waits]
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Directory of guest kernels [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Parameters to add to every target's kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Also time `hutch run` of CMD from this root directory, from spawn to exit
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Measure another program in the same run: a command with the placeholders {kernel}, {initrd}, {cmdline},
    /// {memory_mib} and {cpus}. A command without {kernel} is timed to its exit; {{ and }} stand for braces. Built-in
    /// commands are @qemu-microvm, @firecracker, @cloud-hypervisor and @crosvm
    #[arg(long = "peer", value_name = "NAME=COMMAND", allow_hyphen_values = true)]
    pub peers: Vec<String>,
    /// Also measure hutch with a serial console, as its peers have, in addition to the usual silent one
    #[arg(long)]
    pub serial: bool,
    /// Skip the bare boot: measure peers and `hutch run` only
    #[arg(long)]
    pub no_boot: bool,
    /// Boot with all memory at once, as with `hutch run --memory-growth off`
    #[arg(long)]
    pub no_growth: bool,
    /// Arguments to add to the measured `hutch boot`, such as --discovery cmdline
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub hutch_args: Vec<String>,
    /// Vary one setting: mem=128M..8G (doubling) or mem=A,B,…; cpus=1,2,4; kernel=distro,source. For `hutch run` only:
    /// devices=none,net,block,fs,console,net+fs; rootfs=dir,read-only,overlay,PATH
    #[arg(long, value_name = "WHAT=VALUES")]
    pub sweep: Option<String>,
    /// Number of measured rounds
    #[arg(long, short = 'n', value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Number of warm-up rounds, whose results are dropped
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub warm_up: u32,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=254))]
    pub cpus: u32,
    /// Guest memory, with suffix K, M, G or T; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,
    /// Drop a run that takes longer than SECS seconds, and report it
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u64,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Do not count system calls; the count takes one more run of each target
    #[arg(long)]
    pub no_syscalls: bool,
    /// Measure nothing; compare two result files, as `hutch bench compare` does
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    pub compare: Option<Vec<PathBuf>>,
    /// Draw the phases and the distribution of runs to FILE.svg
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Program and its arguments for --rootfs [default: /bin/echo hi]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Arguments of `hutch bench density`.
#[derive(Debug, clap::Args)]
pub struct DensityArgs {
    /// Guest kernel: distro, source, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Directory of guest kernels [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Numbers of idle virtual machines to measure, one measurement each
    #[arg(long, short = 'n', value_name = "N,…", value_delimiter = ',', default_value = "1,5,10")]
    pub counts: Vec<u32>,
    /// Memory of each guest, with suffix K, M, G or T; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,
    /// Fail if a start takes longer than SECS seconds
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub timeout: u64,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// JSON for `hutch bench compare` and other programs
    Json,
    /// CSV for spreadsheets
    Csv,
}

#[cfg(test)]
impl BootBenchArgs {
    /// The arguments of `hutch bench boot` with these words after it.
    pub fn of(words: &[&str]) -> Self {
        use clap::Parser;
        #[derive(Parser)]
        struct Wrapper {
            #[command(flatten)]
            args: BootBenchArgs,
        }
        Wrapper::parse_from([&["bench"], words].concat()).args
    }
}
