//! `hutch container`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::doctor::Format;
use super::pod::StopFlags;
use super::process::{ContainerFlags, LimitFlags};
use super::records::RecordArgs;

/// Containers in pods.
#[derive(Debug, clap::Args)]
pub struct ContainerArgs {
    /// Where the records are.
    #[command(flatten)]
    pub records: RecordArgs,
    /// What to do.
    #[command(subcommand)]
    pub what: ContainerCommand,
}

/// What `hutch container` does.
#[derive(Debug, clap::Subcommand)]
pub enum ContainerCommand {
    /// Create a container in a pod, without starting it
    Create(Box<NewContainer>),
    /// Start created or stopped containers of a running pod
    Start(ContainerIds),
    /// Stop containers
    Stop(StopContainers),
    /// Remove containers that do not run
    Rm(RemoveContainers),
    /// Run a command in a container
    #[command(after_help = "Exit code: that of CMD, 128+N if signal N killed it; 125 if hutch or the guest failed, \
        126 if CMD can't be executed, 127 if it does not exist.")]
    Exec(Box<ExecArgs>),
    /// Send a signal to a container's process
    Kill(KillArgs),
    /// List the processes of a container
    #[command(visible_alias = "top")]
    Ps(PsArgs),
    /// Show everything about a container
    #[command(visible_alias = "inspect")]
    Status(ShowContainer),
    /// Wait until a container's process has ended, and exit with its exit code
    Wait(WaitContainer),
    /// Show what a container uses
    Stats(ShowContainer),
    /// Change the limits of a container
    Update(UpdateArgs),
    /// List the containers of a pod, or of all pods
    #[command(visible_alias = "list")]
    Ls(ListContainers),
}

/// Arguments of `hutch container create`.
#[derive(Debug, clap::Args)]
pub struct NewContainer {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Configuration in JSON or TOML (`hutch schema container` describes it); - is stdin
    #[arg(value_name = "CONFIG", conflicts_with = "rootfs", required_unless_present = "rootfs")]
    pub config: Option<PathBuf>,
    /// Id of the container, unique on the host [default: the configuration's, or a new one]
    #[arg(long, visible_alias = "id", value_name = "ID", help_heading = "Container")]
    pub name: Option<OsString>,
    /// Give the container the standard streams of this call; without it it has none
    #[arg(short = 'a', long, help_heading = "Container")]
    pub attach: bool,
    /// The container.
    #[command(flatten)]
    pub container: ContainerFlags,
    /// Its limits.
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// Containers by id.
#[derive(Debug, clap::Args)]
pub struct ContainerIds {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Arguments of `hutch container stop`.
#[derive(Debug, clap::Args)]
pub struct StopContainers {
    /// Which.
    #[command(flatten)]
    pub ids: ContainerIds,
    /// How to stop.
    #[command(flatten)]
    pub how: StopFlags,
}

/// Arguments of `hutch container rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveContainers {
    /// Which.
    #[command(flatten)]
    pub ids: ContainerIds,
    /// Stop running ones first, by force; ones that do not exist are fine
    #[arg(short = 'f', long)]
    pub force: bool,
}

/// Arguments of `hutch container exec`.
#[derive(Debug, Default, clap::Args)]
pub struct ExecArgs {
    /// Keep stdin open and pass it to the command
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Return when the command runs; it has no standard streams
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Environment variable; without =VALUE it is taken from hutch's own environment
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Environment variables from a file, one NAME[=VALUE] a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the container [default: /]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<OsString>,
    /// User to run as, names or numbers of the root file system [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub user: Option<OsString>,
    /// Resource limit, for example nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub ulimits: Vec<OsString>,
    /// Terminal of this host that is connected to the command
    #[arg(long, value_name = "PATH", requires = "tty")]
    pub console: Option<PathBuf>,
    /// Write the PID that stands for the command to FILE, last of all
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Arguments of `hutch container kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// The signal: a name with or without SIG, or a number
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "TERM")]
    pub signal: String,
    /// Send it to all processes of the container
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Arguments of `hutch container ps`.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// How the list is printed
    #[arg(long, value_name = "table|json", default_value = "table")]
    pub format: String,
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// As for ps(1): -ef, aux, or -o with columns
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS-ARGS")]
    pub args: Vec<String>,
}

/// Arguments of the verbs that show something about one container.
#[derive(Debug, clap::Args)]
pub struct ShowContainer {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch container wait`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: that of the container's process, 128+N if signal N killed it, 255 if nobody saw how \
it ended; 124 after --timeout."
)]
pub struct WaitContainer {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Give up after so many seconds
    #[arg(short = 't', long, value_name = "SECS", allow_negative_numbers = true)]
    pub timeout: Option<OsString>,
}

/// Arguments of `hutch container update`.
#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The limits.
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// Arguments of `hutch container ls`.
#[derive(Debug, clap::Args)]
pub struct ListContainers {
    /// Id of the pod [default: all pods]
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
