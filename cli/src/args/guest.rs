//! `hutch guest`.

use std::path::PathBuf;

use super::format::Format;
use super::help;

/// Arguments of `hutch guest`.
#[derive(Debug, clap::Args)]
pub struct GuestArgs {
    #[command(subcommand)]
    pub what: GuestCommand,
}

/// The verbs of `hutch guest`.
#[derive(Debug, clap::Subcommand)]
pub enum GuestCommand {
    /// Build the guest kernel and initramfs, unless they are up to date
    #[command(after_help = help::GUEST_BUILD)]
    Build(GuestBuildArgs),
    /// List the guest assets that have been built
    Ls(GuestLsArgs),
    /// Verify the checksums of guest assets, and report which of them are out of date
    #[command(after_help = help::GUEST_INSPECT)]
    Inspect(GuestInspectArgs),
}

/// Arguments of `hutch guest build`.
#[derive(Debug, clap::Args)]
pub struct GuestBuildArgs {
    /// Kernel: distro, host, source or a path
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Agent for the initramfs [env: HUTCH_AGENT] [default: hutch-agent beside hutch]
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// Modules of a kernel given by path [default: /lib/modules/RELEASE, if it exists]
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Rebuild assets that are up to date
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `hutch guest ls`.
#[derive(Debug, clap::Args)]
pub struct GuestLsArgs {
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch guest inspect`.
#[derive(Debug, clap::Args)]
pub struct GuestInspectArgs {
    /// distro, host, source or custom-HASH [default: all]
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// Agent to compare with the one in the initramfs [env: HUTCH_AGENT] [default: hutch-agent beside hutch]
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
