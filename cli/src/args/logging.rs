//! Logging options, which every verb accepts.

use std::path::PathBuf;

use log::LevelFilter;

/// Options of the log.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Log messages up to this level: off, error, warn, info, debug or trace [env: HUTCH_LOG] [default: warn]
    #[arg(long, global = true, help_heading = "Logging", value_name = "LEVEL", value_parser = level)]
    pub log_level: Option<LevelFilter>,
    /// Append the log to FILE instead of writing it to stderr
    #[arg(long, global = true, help_heading = "Logging", value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "use off, error, warn, info, debug or trace")
}
