//! `hutch doctor`.

use std::path::PathBuf;

use super::format::Format;

/// Arguments of `hutch doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
    /// Directory of guest kernels and initramfs [env: HUTCH_GUEST_DIR] [default: /var/lib/hutch/guest]
    #[arg(long, value_name = "DIR")]
    pub guest_dir: Option<PathBuf>,
}
