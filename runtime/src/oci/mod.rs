//! The pod API as callers of an OCI runtime see it: ids without pods, bundles, pid files (§11.1 of the contract).

mod create;
mod delete;
mod exec;
mod pid_file;
mod resolve;
mod start;
mod state;

pub use create::Bundle;
pub use pid_file::write_pid_file;
pub use resolve::Found;
pub use state::{OciState, OciStatus};
