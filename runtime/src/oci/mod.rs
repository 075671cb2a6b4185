//! The operations of the OCI runtime specification (create, start, state, kill, delete) by container id: bundles and
//! pid files, without pod ids.

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
