//! `hutch version`.

use std::io::{self, Write};

use crate::failure::Failure;

/// Prints the version of the program and of the protocol its guests must speak.
pub fn run() -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let protocol = hutch_agent_proto::PROTOCOL_VERSION;
    writeln!(io::stdout(), "hutch {version}\nagent protocol {protocol}")?;
    Ok(0)
}
