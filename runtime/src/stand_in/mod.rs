//! Stand-ins: host processes whose PID lives exactly as long as a guest process and that exit with its code (§11).
//!
//! ```text
//!  ProcessStandIns::spawn ── exec, one descriptor ──▶ stand_in_verb(): reads its StandInSpec from the gate
//!     record the PID                                    waits for the word to go on (ends, if the runtime died first)
//!  StandIn::release ── the word ─────────────────────▶  connects to the agent through the VMM's control socket,
//!        … the call returns, the process stays …        relays standard streams and signals, waits for the end,
//!                                                       leaves an exit record, exits with the code
//! ```

mod process;
mod signals;
mod verb;

pub use process::ProcessStandIns;
pub use verb::stand_in_verb;

use serde::{Deserialize, Serialize};

use crate::seam::StandInSpec;

/// Environment variable with the number of the gate's descriptor.
const GATE: &str = "HUTCH_STAND_IN_GATE";

/// What the runtime says through the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GateMessage {
    /// Who you are.
    Spec(Box<StandInSpec>),
    /// You are on record; go on.
    Go,
}
