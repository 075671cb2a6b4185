//! `hutch volume`.

use super::doctor::Format;
use super::records::RecordArgs;

/// Named volumes: directories of this host that outlive the pods that use them.
#[derive(Debug, clap::Args)]
pub struct VolumeArgs {
    /// Where the records are; volumes lie beside those of configurations.
    #[command(flatten)]
    pub records: RecordArgs,
    /// What to do.
    #[command(subcommand)]
    pub what: VolumeCommand,
}

/// What `hutch volume` does.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Create volumes; those that exist stay as they are
    Create(VolumeNames),
    /// List volumes, and the pods that use them
    #[command(visible_alias = "list")]
    Ls(ListVolumes),
    /// Show everything about a volume
    Inspect(ShowVolume),
    /// Remove volumes that no pod uses, with all that is in them
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
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Names only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// Arguments of `hutch volume inspect`.
#[derive(Debug, clap::Args)]
pub struct ShowVolume {
    /// Name of the volume
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
