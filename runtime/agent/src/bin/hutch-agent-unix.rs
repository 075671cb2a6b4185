//! The agent without a guest: serves the agent protocol on a Unix socket of this machine, for tests of either side.
//!
//! `hutch-agent-unix SOCKET RUN_DIR [PUSH_SOCKET]` listens on SOCKET, keeps its files in RUN_DIR and, like a guest
//! that is ready, connects to PUSH_SOCKET. Processes it starts are real ones of this machine; run it as root only in
//! namespaces of its own. `PowerOff` kills its processes and ends it.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hutch_agent::connection::Connection;
use hutch_agent::container::NoContainers;
use hutch_agent::server::{Agent, Options};
use hutch_agent::{init, power, rlimits, session};
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
    // Orphans of its processes come to it, as to PID 1.
    set_child_subreaper(true)?;
    let listener = UnixListener::bind(socket)?;
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let pushed = match push {
        Some(path) => {
            let mut stream = UnixStream::connect(path)?;
            stream.write_all(&session::opening(&kernel).map_err(io::Error::other)?)?;
            Some(Connection::from(stream))
        }
        None => None,
    };
    let agent = Agent::new(Options {
        run_dir: run_dir.to_path_buf(),
        limits: rlimits::inherited(),
        kernel,
        memory_at_boot: hutch_agent::memory::total(),
        containers: Box::new(NoContainers),
        power: Box::new(power::Process),
    })?;
    if let Some(connection) = pushed {
        agent.adopt(connection, true);
    }
    agent.serve(&listener)
}
