//! `hutch volume`.

use super::format::Format;
use super::records::RecordArgs;

/// Arguments of `hutch volume`.
#[derive(Debug, clap::Args)]
pub struct VolumeArgs {
    // Volumes are kept beside the pods' configurations.
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(subcommand)]
    pub what: VolumeCommand,
}

/// The verbs of `hutch volume`.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Create volumes; existing ones stay as they are
    Create(VolumeNames),
    /// List volumes and the pods that use them
    #[command(visible_alias = "list")]
    Ls(ListVolumes),
    /// Show the details of a volume
    Inspect(ShowVolume),
    /// Remove volumes that no pod uses, and their contents
    Rm(VolumeNames),
}

/// Volumes by name.
#[derive(Debug, clap::Args)]
pub struct VolumeNames {
    /// Names of volumes
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// Arguments of `hutch volume ls`.
#[derive(Debug, clap::Args)]
pub struct ListVolumes {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Print names only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// Arguments of `hutch volume inspect`.
#[derive(Debug, clap::Args)]
pub struct ShowVolume {
    /// Name of the volume
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
