//! The agent without a guest: serves the agent protocol on a Unix socket of this machine, for tests of either side.
//!
//! `hutch-agent-unix SOCKET RUN_DIR [PUSH_SOCKET]` listens on SOCKET, keeps its files in RUN_DIR and, like a guest
//! that is ready, connects to PUSH_SOCKET. It starts real processes of this machine; run it as root only in namespaces
//! of its own. `PowerOff` kills its processes and ends it.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hutch_agent::{init, opening, rlimits, total_memory};
use hutch_agent::{Agent, AgentOptions, HostConnection, NoContainers, ProcessPower, Server};
use nix::sys::prctl::set_child_subreaper;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match &arguments[..] {
        [socket, run_dir] => serve(socket, run_dir, None),
        [socket, run_dir, push] => serve(socket, run_dir, Some(push)),
        _ => Err(io::Error::other("usage: hutch-agent-unix SOCKET RUN_DIR [PUSH_SOCKET]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hutch-agent-unix: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &Path, run_dir: &Path, push: Option<&Path>) -> io::Result<()> {
    if std::process::id() == 1 {
        init::block_signals();
    }
    // It adopts the orphans of its processes, as PID 1 does.
    set_child_subreaper(true)?;
    let listener = UnixListener::bind(socket)?;
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let pushed = match push {
        Some(path) => {
            let mut stream = UnixStream::connect(path)?;
            stream.write_all(&opening(&kernel).map_err(io::Error::other)?)?;
            Some(HostConnection::from(stream))
        }
        None => None,
    };
    let agent = Agent::new(AgentOptions {
        run_dir: run_dir.to_path_buf(),
        limits: rlimits::inherited(),
        kernel,
        memory_at_boot: total_memory(),
        containers: Box::new(NoContainers),
        power: Box::new(ProcessPower),
    })?;
    let server = Server::new(agent);
    if let Some(connection) = pushed {
        server.adopt(connection, true);
    }
    server.serve(&listener)
}
