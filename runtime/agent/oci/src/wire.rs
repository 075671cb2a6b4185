//! What the agent and its helper processes tell each other: one packet per message over a socket pair.
//!
//! The helper inherits its end as descriptor [`CHANNEL`], and the process it makes for the container inherits it from
//! there. Both speak; the kernel closes the process's copy when it executes its program, so that the end of the
//! channel means that the program runs (or that the process died).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use hutch_agent::spawn::CHANNEL;
use hutch_agent_proto::{ErrorKind, RemoteError};
use nix::errno::Errno;
use nix::sys::socket::{recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags};
use serde::{Deserialize, Serialize};

/// Longest message.
const MAX_WORD: usize = 16 << 10;
/// Longest text of an error in a message, so that it fits in any case.
const MAX_TEXT: usize = 2 << 10;

/// A message.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// The process is there; a pidfd comes along.
    Made {
        /// Its pid.
        pid: i32,
    },
    /// A job without a process is done.
    Done,
    /// It did not work.
    Failed(RemoteError),
}

/// The channel as the helper and its children know it.
#[allow(unsafe_code)] // A descriptor known by its number.
pub fn channel() -> BorrowedFd<'static> {
    // SAFETY: whoever starts the helper passes this descriptor, and nothing in it or its children closes it before the
    // program is executed.
    unsafe { BorrowedFd::borrow_raw(CHANNEL) }
}

/// Sends a message.
///
/// # Errors
/// `EPIPE` if the agent no longer listens.
pub fn send(socket: BorrowedFd, word: &Word, fd: Option<BorrowedFd>) -> Result<(), Errno> {
    let bytes = match serde_json::to_vec(word) {
        Ok(bytes) if bytes.len() <= MAX_WORD => bytes,
        _ => return Err(Errno::EMSGSIZE),
    };
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Sends an error, cut to what fits.
///
/// A container's process may be under a seccomp filter already, which leaves it less than the usual call: then it is
/// simply written.
///
/// # Errors
/// As [`send`].
pub fn send_failure(socket: BorrowedFd, mut error: RemoteError) -> Result<(), Errno> {
    if error.message.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| error.message.is_char_boundary(at)).unwrap_or(0);
        error.message.truncate(end);
    }
    let word = Word::Failed(error);
    match send(socket, &word, None) {
        // Writing to nobody would be the end of this process.
        Err(errno) if errno != Errno::EPIPE => {
            let bytes = serde_json::to_vec(&word).map_err(|_| errno)?;
            nix::unistd::write(socket, &bytes).map(drop)
        }
        result => result,
    }
}

/// Receives a message and the descriptor that came with it, without waiting; `None` is the end of the channel.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn receive(socket: BorrowedFd) -> Result<Option<(Word, Option<OwnedFd>)>, Errno> {
    let mut bytes = vec![0; MAX_WORD];
    let (count, fd) = receive_raw(socket, &mut bytes)?;
    if count == 0 {
        return Ok(None);
    }
    let word = serde_json::from_slice(bytes.get(..count).unwrap_or_default());
    let word = word.unwrap_or_else(|_| {
        let message = "the helper for containers said something unintelligible";
        Word::Failed(RemoteError::new(ErrorKind::System, message))
    });
    Ok(Some((word, fd)))
}

/// Receives bytes and at most one descriptor, without waiting.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn receive_raw(socket: BorrowedFd, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(own));
        }
    }
    Ok((message.bytes, fds.into_iter().next()))
}

#[allow(unsafe_code)] // A descriptor the kernel made.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: `recvmsg` has just put this descriptor into our table; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn words_and_descriptors_arrive() {
        let (ours, theirs) = pair();
        assert_eq!(receive(ours.as_fd()).unwrap_err(), Errno::EAGAIN);
        let null = std::fs::File::open("/dev/null").unwrap();
        send(theirs.as_fd(), &Word::Made { pid: 7 }, Some(null.as_fd())).unwrap();
        assert!(matches!(receive(ours.as_fd()).unwrap(), Some((Word::Made { pid: 7 }, Some(_)))));
        let error = RemoteError::new(ErrorKind::Invalid, "é".repeat(MAX_TEXT));
        send_failure(theirs.as_fd(), error).unwrap();
        match receive(ours.as_fd()).unwrap() {
            Some((Word::Failed(error), None)) => assert_eq!(error.message.len(), MAX_TEXT),
            other => panic!("{other:?}"),
        }
        drop(theirs);
        assert!(receive(ours.as_fd()).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_an_error_of_the_helper() {
        let (ours, theirs) = pair();
        nix::unistd::write(&theirs, b"\xff{").unwrap();
        assert!(matches!(receive(ours.as_fd()).unwrap(), Some((Word::Failed(_), None))));
    }
}
