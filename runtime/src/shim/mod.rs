//! Shims: host processes whose PID lives exactly as long as a guest process and that exit with its code (§11).
//!
//! ```text
//!  ProcessShims::spawn ── exec, one descriptor ──▶ shim_verb(): reads its ShimSpec from the sync_pipe
//!     record the PID                                    waits for the start message (ends, if the runtime died first)
//!  Shim::start ── start message ────────────────▶  connects to the agent through the VMM's control socket,
//!        … the call returns, the process stays …        relays standard streams and signals, waits for the end,
//!                                                       leaves an exit record, exits with the code
//! ```

mod process;
mod signals;
mod verb;

pub use process::ProcessShims;
pub use verb::shim_verb;

use serde::{Deserialize, Serialize};

use crate::backend::ShimSpec;

/// Environment variable with the number of the sync_pipe's descriptor.
const SYNC_PIPE: &str = "HUTCH_SHIM_SYNC_PIPE";

/// What the runtime says through the sync_pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartMessage {
    /// Who you are.
    Spec(Box<ShimSpec>),
    /// You are on record; go on.
    Go,
}
