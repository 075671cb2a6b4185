//! `hutch pod`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::format::Format;
use super::help;
use super::process::ContainerFlags;
use super::records::RecordArgs;

/// Arguments of `hutch pod`.
#[derive(Debug, clap::Args)]
pub struct PodArgs {
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(subcommand)]
    pub what: PodCommand,
}

/// The verbs of `hutch pod`.
#[derive(Debug, clap::Subcommand)]
pub enum PodCommand {
    /// Create a pod: boot its virtual machine and create its containers, without starting them
    Create(Box<NewPod>),
    /// Start all containers of created or stopped pods
    Start(StartPods),
    /// Stop pods: their containers, virtual machines and networks
    Stop(StopPods),
    /// Remove pods with all their records. Ready and paused pods are stopped by force first; running ones are refused
    Rm(RemovePods),
    /// Create and start a pod
    #[command(after_help = help::POD_RUN)]
    Run(Box<RunPod>),
    /// List pods
    #[command(visible_alias = "list")]
    Ls(ListPods),
    /// Show the status of a pod
    #[command(visible_alias = "inspect")]
    Status(ShowPod),
    /// Pause running pods
    Pause(PodIds),
    /// Resume paused pods
    #[command(visible_alias = "unpause")]
    Resume(PodIds),
    /// Wait for pods to stop
    #[command(after_help = help::POD_WAIT)]
    Wait(WaitPods),
    /// Show the resource usage of a pod
    Stats(ShowPod),
    /// Print the events of a pod until its virtual machine ends
    Events(ShowPod),
    /// Remove leftovers of interrupted `create` and `rm` commands from this host, and print their ids; pods stay, and
    /// so does everything that hutch did not make
    Cleanup(CleanupPods),
}

/// Arguments of `hutch pod cleanup`.
#[derive(Debug, Default, clap::Args)]
pub struct CleanupPods {
    /// Print the ids, remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `hutch pod create`.
#[derive(Debug, Default, clap::Args)]
pub struct NewPod {
    /// Configuration file in JSON or TOML (see `hutch schema pod`); - is stdin
    #[arg(value_name = "CONFIG", conflicts_with = "rootfs", required_unless_present = "rootfs")]
    pub config: Option<PathBuf>,
    /// Id of the pod, and of the container of --rootfs [default: that of CONFIG, else a random one]
    #[arg(long, visible_alias = "id", value_name = "ID", help_heading = "Pod")]
    pub name: Option<OsString>,
    /// Number of virtual CPUs at boot [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Pod")]
    pub cpus: Option<OsString>,
    /// Guest memory at boot, with suffix K, M, G or T; a plain number is MiB [default: 2G]
    #[arg(short = 'm', long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Pod")]
    pub memory: Option<OsString>,
    /// Number of disk slots kept free for later containers whose root file system is a disk image [default: 0]
    #[arg(long, value_name = "N", help_heading = "Pod")]
    pub block_slots: Option<u32>,
    /// Upper limit of guest memory. The guest grows with its containers' limits, up to this [default: this host's
    /// memory if the kernel is hutch's own, else no growth]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Pod")]
    pub max_memory: Option<OsString>,
    /// Upper limit of virtual CPUs. The guest gets more with its containers' limits, up to this [default: 8, or --cpus
    /// if that is more]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Pod")]
    pub max_cpus: Option<OsString>,
    /// Network: none, a new namespace behind NAT, or an existing namespace, by its name in /run/netns or by its path
    /// [default: none]
    #[arg(long, value_name = "none|nat|ns=NAME|ns=PATH", help_heading = "Pod")]
    pub net: Option<OsString>,
    /// Forward a port of this host to the guest; implies --net nat
    #[arg(short = 'p', long = "publish", value_name = "[ADDR:]HOST:GUEST[/udp]", help_heading = "Pod")]
    pub publish: Vec<OsString>,
    /// Host name in the guest [default: the pod's id]
    #[arg(long, value_name = "NAME", help_heading = "Pod")]
    pub hostname: Option<OsString>,
    /// Add an annotation to the pod
    #[arg(long = "annotation", value_name = "KEY=VALUE", help_heading = "Pod")]
    pub annotations: Vec<OsString>,
    /// Guest kernel: distro, host, source, or the path of a vmlinux or bzImage [default: distro]
    #[arg(long, value_name = "KERNEL", help_heading = "Pod")]
    pub kernel: Option<OsString>,
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR", help_heading = "Pod")]
    pub guest_dir: Option<PathBuf>,
    /// Make the guest kernel verbose, and keep its console output in the pod's state directory
    #[arg(long, help_heading = "Pod")]
    pub debug: bool,
    /// Do not confine the processes of the pod; for debugging
    #[arg(long, help_heading = "Pod")]
    pub no_jail: bool,
    /// Give up if the guest does not answer within SECS seconds [env: HUTCH_BOOT_TIMEOUT] [default: 10]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Pod")]
    pub boot_timeout: Option<OsString>,
    /// Connect the containers to the standard streams of this command; without -a they have none
    #[arg(short = 'a', long, help_heading = "Pod")]
    pub attach: bool,
    #[command(flatten)]
    pub container: ContainerFlags,
}

/// Arguments of `hutch pod run`.
#[derive(Debug, Default, clap::Args)]
pub struct RunPod {
    #[command(flatten)]
    pub pod: NewPod,
    /// Print the pod's id and leave it running
    #[arg(short = 'd', long, conflicts_with = "attach")]
    pub detach: bool,
    /// Stop the pod when CMD ends, instead of removing it
    #[arg(long, conflicts_with = "detach")]
    pub keep: bool,
    /// Accepted for compatibility: without -d, hutch removes the pod anyway when CMD ends
    #[arg(long, hide = true, conflicts_with_all = ["detach", "keep"])]
    pub rm: bool,
}

/// Pods by id.
#[derive(Debug, clap::Args)]
pub struct PodIds {
    /// Ids of pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
}

/// Arguments of `hutch pod start`.
#[derive(Debug, clap::Args)]
pub struct StartPods {
    /// Ids of pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// Give up if a guest does not answer within SECS seconds [env: HUTCH_BOOT_TIMEOUT] [default: 10]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true)]
    pub boot_timeout: Option<OsString>,
}

/// Arguments of `hutch pod stop`.
#[derive(Debug, clap::Args)]
pub struct StopPods {
    /// Ids of pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// Select all pods
    #[arg(short = 'a', long, conflicts_with = "pods")]
    pub all: bool,
    #[command(flatten)]
    pub how: StopFlags,
}

/// Options of `hutch pod stop` and `hutch container stop`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StopFlags {
    /// Kill at once, and ignore failures of the guest; resources of the host are always released
    #[arg(short = 'f', long)]
    pub force: bool,
    /// Signal to send first, by name or number; none to send no signal [default: TERM]
    #[arg(short = 's', long, value_name = "SIGNAL", conflicts_with = "force")]
    pub signal: Option<String>,
    /// Kill processes that still run after SECS seconds [default: 10]
    #[arg(short = 't', long, visible_alias = "time", value_name = "SECS", allow_negative_numbers = true)]
    pub timeout: Option<OsString>,
}

/// Arguments of `hutch pod rm`.
#[derive(Debug, clap::Args)]
pub struct RemovePods {
    /// Ids of pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// Select all pods
    #[arg(short = 'a', long, conflicts_with = "pods")]
    pub all: bool,
    /// Kill running pods first; ignore pods that do not exist
    #[arg(short = 'f', long)]
    pub force: bool,
}

/// Arguments of `hutch pod ls`.
#[derive(Debug, clap::Args)]
pub struct ListPods {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Print ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// Arguments of `hutch pod status`, `stats` and `events`.
#[derive(Debug, clap::Args)]
pub struct ShowPod {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch pod wait`.
#[derive(Debug, clap::Args)]
pub struct WaitPods {
    /// Ids of pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// Give up after SECS seconds [default: no limit]
    #[arg(short = 't', long, value_name = "SECS", allow_negative_numbers = true)]
    pub timeout: Option<OsString>,
}
