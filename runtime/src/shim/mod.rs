//! Shims: host processes whose PID lives exactly as long as a guest process and that exit with its code
//! (pod contract, §11).
//!
//! ```text
//!  ProcessShims::spawn ── exec, one descriptor ──▶ shim_verb(): reads its ShimSpec from the sync pipe
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

/// Environment variable with the number of the sync pipe's descriptor.
const SYNC_PIPE: &str = "HUTCH_SHIM_SYNC_PIPE";

/// A message of the runtime through the sync pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartMessage {
    /// The process to stand for.
    Spec(Box<ShimSpec>),
    /// The shim is on record and may start.
    Go,
}
