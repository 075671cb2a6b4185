//! A container's terminal. libcontainer makes it inside the container, so that its name exists there, and sends the
//! agent's side over a socket.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hutch_agent::failure::{io, system, Outcome};
use hutch_agent::sys::{open_terminal_peer, set_window_size};
use hutch_agent::Streams;
use hutch_agent_proto::{RemoteError, RemoteErrorKind, WindowSize};
use nix::fcntl::{fcntl, open, FcntlArg, OFlag};
use nix::sys::stat::Mode;

use crate::wire::receive_raw;

/// A socket that receives the agent's side of one terminal.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens at `name` in `dir`.
    pub fn listen(dir: &Path, name: &str) -> Outcome<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(dir, flags, Mode::empty()).map_err(|errno| system(dir.display(), errno))?;
        // The path may be longer than an address of a socket.
        let short = format!("/proc/self/fd/{}/{name}", fd.as_raw_fd());
        let failed = |error| io("making a socket for a terminal", &error);
        let listener = UnixListener::bind(short).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: dir.join(name) })
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the terminal, sets its size and makes user `uid` its owner.
    pub fn receive(&self, size: WindowSize, uid: u32) -> Outcome<Streams> {
        let failed = |errno| system("the container's terminal", errno);
        let (connection, _) = self.listener.accept().map_err(|error| io("the container's terminal", &error))?;
        let (_, master) = receive_raw(connection.as_fd(), &mut [0; 256]).map_err(failed)?;
        let master: OwnedFd = master
            .ok_or_else(|| RemoteError::new(RemoteErrorKind::System, "the container's terminal: no descriptor came"))?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).map_err(failed)?;
        set_window_size(master.as_fd(), size).map_err(failed)?;
        if uid != 0 {
            // So that the process may open its terminal by name.
            let peer = open_terminal_peer(master.as_fd()).map_err(failed)?;
            fchown(&peer, Some(uid), None).map_err(|error| io("the container's terminal", &error))?;
        }
        Ok(Streams { terminal: Some(Arc::new(master)), ..Streams::default() })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
