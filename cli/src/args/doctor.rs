//! `hutch doctor`.

use std::path::PathBuf;

use clap::ValueEnum;

/// Arguments of `hutch doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Where guest kernels and initramfs are kept [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; see `resources/docs/doctor.md`.
    Json,
}
