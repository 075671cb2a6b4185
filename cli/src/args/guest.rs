//! `hutch guest`.

use std::path::PathBuf;

use super::doctor::Format;

/// Make, list and check what guests boot: a kernel and an initramfs with the agent.
#[derive(Debug, clap::Args)]
pub struct GuestArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: GuestCommand,
}

/// What `hutch guest` does.
#[derive(Debug, clap::Subcommand)]
pub enum GuestCommand {
    /// Make the guest kernel and initramfs, as far as they are not up to date
    Build(GuestBuildArgs),
    /// List what has been made
    Ls(GuestLsArgs),
    /// Check every byte of it, and tell what is out of date
    Inspect(GuestInspectArgs),
}

/// Arguments of `hutch guest build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Kernels:
  distro   Debian's cloud kernel (linux-image-6.12*-cloud-amd64, else linux-image-cloud-amd64): downloaded and read,
           not installed; seconds
  host     the kernel this host runs, from /boot and /lib/modules
  source   compiled from Debian's linux-source-6.12 for hutch; minutes, 3 GB of room meanwhile. Installs what the
           compilation needs (bc, bison, flex, gcc, libelf-dev, make, ...), after saying which of these are missing
  PATH     an ELF vmlinux or a bzImage")]
pub struct GuestBuildArgs {
    /// Which kernel: distro, host, source or a path
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    pub kernel: String,
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// The agent to put into the initramfs [env: HUTCH_AGENT] [default: hutch-agent beside hutch]
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// The modules of a kernel given by path [default: /lib/modules/RELEASE, if it is there]
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Build even what is up to date
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `hutch guest ls`.
#[derive(Debug, clap::Args)]
pub struct GuestLsArgs {
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// Arguments of `hutch guest inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 if the files are intact, 1 if one of them is not.")]
pub struct GuestInspectArgs {
    /// distro, host, source or custom-HASH [default: all]
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
    /// The agent to compare with [env: HUTCH_AGENT] [default: hutch-agent beside hutch]
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}
