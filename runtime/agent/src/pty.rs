//! Pseudo-terminals of processes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hutch_agent_proto::WindowSize;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::termios::{tcgetattr, LocalFlags, SpecialCharacterIndices};

use crate::failure::{system, Outcome};
use crate::root::RootDir;
use crate::sys::{open_terminal_peer, set_window_size};

/// Opens a terminal of `size` and returns the agent's side, which does not block, and the process's. The terminal
/// belongs to the devpts instance of `root`, so that the process finds its name there, or else to the agent's instance.
///
/// # Errors
/// `System` if the guest has no terminals left.
pub fn open_pair(root: &RootDir, size: WindowSize) -> Outcome<(OwnedFd, OwnedFd)> {
    let open = || -> Result<_, Errno> {
        let master = open_master(root)?;
        let peer = open_terminal_peer(master.as_fd())?;
        set_window_size(master.as_fd(), size)?;
        Ok((master, peer))
    };
    open().map_err(|errno| system("opening a terminal", errno))
}

fn open_master(root: &RootDir) -> Result<OwnedFd, Errno> {
    let (path, flags) = (Path::new("/dev/ptmx"), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK);
    root.resolve(path, flags).or_else(|_| RootDir::open(Path::new("/"))?.resolve(path, flags))
}

/// The bytes that mean end of file to a reader of `terminal`; none if the terminal is not in canonical mode. After an
/// unfinished line the first such byte only delivers that line, so there are two.
pub fn end_of_file(terminal: impl AsFd, line_finished: bool) -> Vec<u8> {
    match tcgetattr(terminal) {
        Ok(settings) if settings.local_flags.contains(LocalFlags::ICANON) => {
            let byte = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
            vec![byte; if line_finished { 1 } else { 2 }]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::{cfmakeraw, tcsetattr, SetArg};

    #[test]
    fn end_of_file_follows_the_line_discipline() {
        let root = RootDir::open(Path::new("/")).unwrap();
        let (master, peer) = open_pair(&root, WindowSize { rows: 3, cols: 7 }).unwrap();
        assert_eq!(end_of_file(&master, true), [4]);
        assert_eq!(end_of_file(&master, false), [4, 4]);
        let mut settings = tcgetattr(&peer).unwrap();
        cfmakeraw(&mut settings);
        tcsetattr(&peer, SetArg::TCSANOW, &settings).unwrap();
        assert!(end_of_file(&master, true).is_empty());
    }
}
