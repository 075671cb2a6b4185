//! The agent with containers, without a guest: serves the agent protocol on a Unix socket of this machine, for tests.
//!
//! `hutch-agent-oci-unix SOCKET RUN_DIR` listens on SOCKET and keeps its files in RUN_DIR. Run it as root, in
//! namespaces of its own.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hutch_agent::{init, rlimits, total_memory, Agent, AgentOptions, ProcessPower, Server};
use hutch_agent_oci::{run_job, OciContainers};
use nix::sys::prctl::set_child_subreaper;

fn main() -> ExitCode {
    if let Some(code) = run_job() {
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
    let agent = Agent::new(AgentOptions {
        run_dir: run_dir.to_path_buf(),
        limits: rlimits::inherited(),
        kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
        memory_at_boot: total_memory(),
        containers: Box::new(OciContainers::new(run_dir)),
        power: Box::new(ProcessPower),
    })?;
    Server::new(agent).serve(&listener)
}
