//! The host, as far as the meaning of a command line depends on it.

use std::ffi::{OsStr, OsString};
use std::io;

use nix::sys::sysinfo::sysinfo;

/// The facts about the host that resolution needs.
pub struct Host<'a> {
    pub memory_mib: u64,
    /// Reads hutch's own environment.
    pub env: &'a dyn Fn(&OsStr) -> Option<OsString>,
    /// Whether stdin is a terminal.
    pub stdin_tty: bool,
    /// Process id of hutch.
    pub pid: u32,
}

/// Memory of this host in MiB.
pub fn memory_of_host() -> io::Result<u64> {
    Ok(sysinfo()?.ram_total() >> 20)
}
