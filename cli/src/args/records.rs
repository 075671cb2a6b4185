//! Options that all verbs on pods and containers share: the directories of the pods' records.

use std::path::PathBuf;

/// The two record directories.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RecordArgs {
    /// Directory of pod configurations, kept across reboots [env: HUTCH_ROOT] [default: /var/lib/hutch/pods]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Records")]
    pub root: Option<PathBuf>,
    /// Directory of states, sockets and locks, lost at reboot [env: HUTCH_STATE_ROOT] [default: /run/hutch/pods]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Records")]
    pub state_root: Option<PathBuf>,
}
