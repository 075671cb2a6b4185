//! Where the records of pods are: options that all verbs on pods and containers have.

use std::path::PathBuf;

/// The two roots.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RecordArgs {
    /// Directory of the pods' configurations [env: HUTCH_ROOT] [default: /var/lib/hutch/pods]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Records")]
    pub root: Option<PathBuf>,
    /// Directory of what dies with the host: states, sockets, locks [env: HUTCH_STATE_ROOT] [default: /run/hutch/pods]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Records")]
    pub state_root: Option<PathBuf>,
}
