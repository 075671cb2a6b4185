//! The agent with containers, without a guest: serves the agent protocol on a Unix socket of this machine, for tests.
//!
//! `hutch-agent-oci-unix SOCKET RUN_DIR` listens on SOCKET and keeps its files in RUN_DIR. Run it as root, in
//! namespaces of its own.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hutch_agent::server::{Agent, Options};
use hutch_agent::{init, power, rlimits};
use hutch_agent_oci::containers::OciContainers;
use hutch_agent_oci::helper;
use nix::sys::prctl::set_child_subreaper;

fn main() -> ExitCode {
    if let Some(code) = helper::run() {
        return ExitCode::from(code as u8);
    }
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match &arguments[..] {
        [socket, run_dir] => serve(socket, run_dir),
        _ => Err(io::Error::other("usage: hutch-agent-oci-unix SOCKET RUN_DIR")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hutch-agent-oci-unix: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &Path, run_dir: &Path) -> io::Result<()> {
    if std::process::id() == 1 {
        init::block_signals();
    }
    set_child_subreaper(true)?;
    let listener = UnixListener::bind(socket)?;
    let agent = Agent::new(Options {
        run_dir: run_dir.to_path_buf(),
        limits: rlimits::inherited(),
        kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
        memory_at_boot: hutch_agent::memory::total(),
        containers: Box::new(OciContainers::new(run_dir)),
        power: Box::new(power::Process),
    })?;
    agent.serve(&listener)
}
