//! `hutch pod`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::doctor::Format;
use super::process::ContainerFlags;
use super::records::RecordArgs;

/// Pods: virtual machines and what runs in them.
#[derive(Debug, clap::Args)]
pub struct PodArgs {
    /// Where the records are.
    #[command(flatten)]
    pub records: RecordArgs,
    /// What to do.
    #[command(subcommand)]
    pub what: PodCommand,
}

/// What `hutch pod` does.
#[derive(Debug, clap::Subcommand)]
pub enum PodCommand {
    /// Create a pod: boot its machine and make its containers, without starting them
    Create(Box<NewPod>),
    /// Start created or stopped pods: all their containers
    Start(StartPods),
    /// Stop pods: their containers, their machine, their network
    Stop(StopPods),
    /// Remove pods that do not run, with all their records
    Rm(RemovePods),
    /// Create and start a pod
    #[command(after_help = RUN_HELP)]
    Run(Box<RunPod>),
    /// List pods
    #[command(visible_alias = "list")]
    Ls(ListPods),
    /// Show everything about a pod
    #[command(visible_alias = "inspect")]
    Status(ShowPod),
    /// Hold the machines of running pods
    Pause(PodIds),
    /// Let paused pods go on
    #[command(visible_alias = "unpause")]
    Resume(PodIds),
    /// Wait until pods have no machine any more
    Wait(WaitPods),
    /// Show what pods use
    Stats(ShowPod),
    /// Tell what happens in a pod until its machine ends
    Events(ShowPod),
    /// Remove what killed creations and removals have left on this host, and print the ids; pods are not touched
    Cleanup,
}

const RUN_HELP: &str = "\
With --rootfs the command's standard streams are hutch's own, and when it has ended the pod is removed, unless -d or
--keep says otherwise. Exit code then: that of CMD, 128+N if signal N killed it; 125 if hutch or the guest failed, 126 if
CMD can't be executed, 127 if it does not exist. With CONFIG, hutch prints the pod's id and leaves it running.";

/// A pod to be made.
#[derive(Debug, Default, clap::Args)]
pub struct NewPod {
    /// Configuration in JSON or TOML (`hutch schema pod` describes it); - is stdin
    #[arg(value_name = "CONFIG", conflicts_with = "rootfs", required_unless_present = "rootfs")]
    pub config: Option<PathBuf>,
    /// Id of the pod; a container of --rootfs is called the same [default: the configuration's, or a new one]
    #[arg(long, visible_alias = "id", value_name = "ID", help_heading = "Pod")]
    pub name: Option<OsString>,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Pod")]
    pub cpus: Option<OsString>,
    /// Guest memory, with K, M, G or T; a plain number is MiB [default: 2G]
    #[arg(short = 'm', long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Pod")]
    pub memory: Option<OsString>,
    /// Drive slots for containers made later whose root file system is a disk image [default: 0]
    #[arg(long, value_name = "N", help_heading = "Pod")]
    pub block_slots: Option<u32>,
    /// Most memory: up to it the machine gets on top what its containers' limits add up to [default: this host's memory if
    /// the kernel is hutch's own, else none]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Pod")]
    pub max_memory: Option<OsString>,
    /// Most virtual CPUs: up to it the machine gets on top what its containers' limits add up to [default: 8, or
    /// what the pod begins with]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Pod")]
    pub max_cpus: Option<OsString>,
    /// Network: none, an existing namespace, or one of its own behind address translation [default: none]
    #[arg(long, value_name = "none|nat|ns=PATH", help_heading = "Pod")]
    pub net: Option<OsString>,
    /// Pass a port of this host to the guest; implies --net nat
    #[arg(short = 'p', long = "publish", value_name = "[ADDR:]HOST:GUEST[/udp]", help_heading = "Pod")]
    pub publish: Vec<OsString>,
    /// Host name in the guest [default: the pod's id]
    #[arg(long, value_name = "NAME", help_heading = "Pod")]
    pub hostname: Option<OsString>,
    /// Annotation
    #[arg(long = "annotation", value_name = "KEY=VALUE", help_heading = "Pod")]
    pub annotations: Vec<OsString>,
    /// Guest kernel: distro, host, source, or the path of a vmlinux or bzImage [default: distro]
    #[arg(long, value_name = "KERNEL", help_heading = "Pod")]
    pub kernel: Option<OsString>,
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR", help_heading = "Pod")]
    pub guest_dir: Option<PathBuf>,
    /// Make the guest's kernel tell more, and keep its console in the pod's state directory
    #[arg(long, help_heading = "Pod")]
    pub debug: bool,
    /// How long the machine may take to answer, in seconds [env: HUTCH_BOOT_TIMEOUT] [default: 10]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Pod")]
    pub boot_timeout: Option<OsString>,
    /// Give the containers the standard streams of this call; without it they have none
    #[arg(short = 'a', long, help_heading = "Pod")]
    pub attach: bool,
    /// The container.
    #[command(flatten)]
    pub container: ContainerFlags,
}

/// Arguments of `hutch pod run`.
#[derive(Debug, Default, clap::Args)]
pub struct RunPod {
    /// The pod.
    #[command(flatten)]
    pub pod: NewPod,
    /// Print the pod's id and leave it running
    #[arg(short = 'd', long, conflicts_with = "attach")]
    pub detach: bool,
    /// Do not remove the pod when its command has ended; it is stopped then
    #[arg(long, conflicts_with = "detach")]
    pub keep: bool,
    /// Accepted for those who are used to it: a pod that is not detached is removed at its end anyway
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
    /// How long a machine may take to answer, in seconds [env: HUTCH_BOOT_TIMEOUT] [default: 10]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true)]
    pub boot_timeout: Option<OsString>,
}

/// Arguments of `hutch pod stop`.
#[derive(Debug, clap::Args)]
pub struct StopPods {
    /// Ids of pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// All pods
    #[arg(short = 'a', long, conflicts_with = "pods")]
    pub all: bool,
    /// How to stop.
    #[command(flatten)]
    pub how: StopFlags,
}

/// How to stop.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StopFlags {
    /// Kill at once, and ignore all that fails in the guest; everything on the host is released all the same
    #[arg(short = 'f', long)]
    pub force: bool,
    /// Signal sent first, by name or number; none: just wait for the end [default: TERM]
    #[arg(short = 's', long, value_name = "SIGNAL", conflicts_with = "force")]
    pub signal: Option<String>,
    /// Seconds until what still runs is killed [default: 10]
    #[arg(short = 't', long, visible_alias = "time", value_name = "SECS", allow_negative_numbers = true)]
    pub timeout: Option<OsString>,
}

/// Arguments of `hutch pod rm`.
#[derive(Debug, clap::Args)]
pub struct RemovePods {
    /// Ids of pods
    #[arg(required_unless_present = "all", value_name = "POD")]
    pub pods: Vec<String>,
    /// All pods
    #[arg(short = 'a', long, conflicts_with = "pods")]
    pub all: bool,
    /// Stop running ones first, by force; ones that do not exist are fine
    #[arg(short = 'f', long)]
    pub force: bool,
}

/// Arguments of `hutch pod ls`.
#[derive(Debug, clap::Args)]
pub struct ListPods {
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// Arguments of the verbs that show something about one pod.
#[derive(Debug, clap::Args)]
pub struct ShowPod {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch pod wait`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 if the machines were stopped, 1 if one died, 124 after --timeout.")]
pub struct WaitPods {
    /// Ids of pods
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// Give up after so many seconds
    #[arg(short = 't', long, value_name = "SECS", allow_negative_numbers = true)]
    pub timeout: Option<OsString>,
}
