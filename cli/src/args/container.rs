//! `hutch container`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::format::Format;
use super::help;
use super::pod::StopFlags;
use super::process::{ContainerFlags, LimitFlags};
use super::records::RecordArgs;

/// Arguments of `hutch container`.
#[derive(Debug, clap::Args)]
pub struct ContainerArgs {
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(subcommand)]
    pub what: ContainerCommand,
}

/// The verbs of `hutch container`.
#[derive(Debug, clap::Subcommand)]
pub enum ContainerCommand {
    /// Create a container in a pod, without starting it
    Create(Box<NewContainer>),
    /// Start created or stopped containers of a running pod
    Start(ContainerIds),
    /// Stop containers
    Stop(StopContainers),
    /// Remove containers that are stopped or were never started
    Rm(RemoveContainers),
    /// Run a command in a running container
    #[command(after_help = help::CONTAINER_EXEC)]
    Exec(Box<ExecArgs>),
    /// Send a signal to a container's process
    Kill(KillArgs),
    /// List the processes of a container
    #[command(visible_alias = "top")]
    Ps(PsArgs),
    /// Show the status of a container
    #[command(visible_alias = "inspect")]
    Status(ShowContainer),
    /// Wait for a container's process to end, and exit with its exit code
    #[command(after_help = help::CONTAINER_WAIT)]
    Wait(WaitContainer),
    /// Show the resource usage of a container
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
    /// Configuration file in JSON or TOML (see `hutch schema container`); - is stdin
    #[arg(value_name = "CONFIG", conflicts_with = "rootfs", required_unless_present = "rootfs")]
    pub config: Option<PathBuf>,
    /// Id of the container, unique on this host [default: that of CONFIG, else a random one]
    #[arg(long, visible_alias = "id", value_name = "ID", help_heading = "Container")]
    pub name: Option<OsString>,
    /// Connect the container to the standard streams of this command; without -a it has none
    #[arg(short = 'a', long, help_heading = "Container")]
    pub attach: bool,
    #[command(flatten)]
    pub container: ContainerFlags,
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
    #[command(flatten)]
    pub ids: ContainerIds,
    #[command(flatten)]
    pub how: StopFlags,
}

/// Arguments of `hutch container rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveContainers {
    #[command(flatten)]
    pub ids: ContainerIds,
    /// Kill running containers first; ignore containers that do not exist
    #[arg(short = 'f', long)]
    pub force: bool,
}

/// Arguments of `hutch container exec`.
#[derive(Debug, Default, clap::Args)]
pub struct ExecArgs {
    /// Pass stdin to CMD
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Allocate a terminal for CMD
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Return as soon as CMD runs; CMD gets no standard streams
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Set an environment variable; without =VALUE, take the value from hutch's environment, or leave it unset if it is not
    /// set there
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Read environment variables from FILE, one NAME[=VALUE] per line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory of CMD in the container [default: /]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<OsString>,
    /// User to run CMD as: names from the root file system, or numbers [default: root]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub user: Option<OsString>,
    /// Set a resource limit, for example nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub ulimits: Vec<OsString>,
    /// Terminal device of this host, such as /dev/pts/3, that becomes the standard streams and controlling terminal of CMD
    #[arg(long, value_name = "PATH", requires = "tty")]
    pub console: Option<PathBuf>,
    /// Write to FILE the PID of the host process that represents CMD, once everything else has succeeded
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
    /// Signal: a name with or without SIG, or a number
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "TERM")]
    pub signal: String,
    /// Send the signal to all processes of the container
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
    /// Output format
    #[arg(long, value_name = "table|json", default_value = "table")]
    pub format: String,
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Options of ps(1): -ef, aux, or -o with columns
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS-ARGS")]
    pub args: Vec<String>,
}

/// Arguments of `hutch container status` and `stats`.
#[derive(Debug, clap::Args)]
pub struct ShowContainer {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch container wait`.
#[derive(Debug, clap::Args)]
pub struct WaitContainer {
    /// Id of the pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Give up after SECS seconds [default: no limit]
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
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// Arguments of `hutch container ls`.
#[derive(Debug, clap::Args)]
pub struct ListContainers {
    /// Id of the pod [default: all pods]
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
