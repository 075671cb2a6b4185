//! The channel from helper processes to the agent: one packet per message over a socket pair.
//!
//! The helper inherits its end as descriptor [`CHANNEL`], and the container's process inherits it from the helper. Both
//! send on it. The kernel closes the process's copy when the process executes its program, so the end of the channel
//! means that the program runs or that the process died.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use hutch_agent::CHANNEL;
use hutch_agent_proto::{RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::sys::socket::{recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags};
use serde::{Deserialize, Serialize};

/// Longest message in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// Longest text of an error in bytes; its JSON form always fits a message.
const MAX_TEXT: usize = 2 << 10;

/// A message of a helper or of the container's process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The container's process exists; the message carries its pidfd.
    Spawned {
        /// Pid of the process.
        pid: i32,
    },
    /// A job that leaves no process has succeeded.
    Done,
    /// The job failed, or the process could not execute its program.
    Failed(RemoteError),
}

/// The channel as the helper and its children know it.
#[expect(unsafe_code, reason = "a descriptor known by its number")]
pub fn channel() -> BorrowedFd<'static> {
    // SAFETY: the agent passes this descriptor to every helper, and neither the helper nor its children close it before
    // they execute the program.
    unsafe { BorrowedFd::borrow_raw(CHANNEL) }
}

/// Sends a message, with a descriptor if `fd` is given.
///
/// # Errors
/// `EPIPE` if the agent has closed the channel.
pub fn send(socket: BorrowedFd, message: &Message, fd: Option<BorrowedFd>) -> Result<(), Errno> {
    let bytes = match serde_json::to_vec(message) {
        Ok(bytes) if bytes.len() <= MAX_MESSAGE => bytes,
        _ => return Err(Errno::EMSGSIZE),
    };
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Sends an error, with a text that is too long cut.
///
/// The seccomp filter of a container's process may deny `sendmsg`. Then this uses `write`.
pub fn send_failure(socket: BorrowedFd, mut error: RemoteError) -> Result<(), Errno> {
    if error.message.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| error.message.is_char_boundary(at)).unwrap_or(0);
        error.message.truncate(end);
    }
    let message = Message::Failed(error);
    match send(socket, &message, None) {
        // Without a reader, `write` would raise SIGPIPE.
        Err(errno) if errno != Errno::EPIPE => {
            let bytes = serde_json::to_vec(&message).map_err(|_| errno)?;
            nix::unistd::write(socket, &bytes).map(drop)
        }
        result => result,
    }
}

/// Receives a message and its descriptor, without waiting; `None` is the end of the channel.
///
/// # Errors
/// `EAGAIN` if no message has arrived.
pub fn receive(socket: BorrowedFd) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let (count, fd) = receive_raw(socket, &mut bytes)?;
    if count == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(bytes.get(..count).unwrap_or_default());
    let message = message.unwrap_or_else(|_| {
        let text = "the helper for containers sent a malformed message";
        Message::Failed(RemoteError::new(RemoteErrorKind::System, text))
    });
    Ok(Some((message, fd)))
}

/// Receives bytes and at most one descriptor, without waiting.
///
/// # Errors
/// `EAGAIN` if no bytes have arrived.
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

#[expect(unsafe_code, reason = "a descriptor that the kernel made")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: `recvmsg` has just put this descriptor into our table; no other owner exists.
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
    fn messages_and_descriptors_arrive() {
        let (ours, theirs) = pair();
        assert_eq!(receive(ours.as_fd()).unwrap_err(), Errno::EAGAIN);
        let null = std::fs::File::open("/dev/null").unwrap();
        send(theirs.as_fd(), &Message::Spawned { pid: 7 }, Some(null.as_fd())).unwrap();
        assert!(matches!(receive(ours.as_fd()).unwrap(), Some((Message::Spawned { pid: 7 }, Some(_)))));
        let error = RemoteError::new(RemoteErrorKind::Invalid, "é".repeat(MAX_TEXT));
        send_failure(theirs.as_fd(), error).unwrap();
        match receive(ours.as_fd()).unwrap() {
            Some((Message::Failed(error), None)) => assert_eq!(error.message.len(), MAX_TEXT),
            other => panic!("{other:?}"),
        }
        drop(theirs);
        assert!(receive(ours.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_malformed_message_is_an_error_of_the_helper() {
        let (ours, theirs) = pair();
        nix::unistd::write(&theirs, b"\xff{").unwrap();
        assert!(matches!(receive(ours.as_fd()).unwrap(), Some((Message::Failed(_), None))));
    }
}
