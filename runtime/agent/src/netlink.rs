//! Just enough of rtnetlink (rtnetlink(7)): messages built and taken apart as bytes, and a socket that waits for the
//! kernel's answer. No unsafe code: the layouts are written out field by field, in the machine's byte order.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    recv, send, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::connection::retry;

/// Bytes of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// The kernel answers at once; this only keeps a bug from stopping a thread for ever.
const PATIENCE_S: i64 = 5;

/// A request being built.
pub struct Message(Vec<u8>);

impl Message {
    /// A request of `kind` (`RTM_…`) with `flags` (`NLM_F_…`, beside `NLM_F_REQUEST | NLM_F_ACK`).
    pub fn new(kind: u16, flags: i32) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// Appends plain bytes of the fixed part.
    pub fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `struct ifinfomsg`.
    pub fn link(self, index: i32, flags: u32, change: u32) -> Self {
        self.put(&[0; 4]).put(&index.to_ne_bytes()).put(&flags.to_ne_bytes()).put(&change.to_ne_bytes())
    }

    /// Appends an attribute, padded to four bytes.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (4 + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// The finished bytes, with `sequence` to recognise the answer.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// `RTM_…` or `NLMSG_…`.
    pub kind: u16,
    /// Of the request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages in a datagram; stops at the first malformed one.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(datagram, 0)? as usize;
        let kind = u16_at(datagram, 4)?;
        let sequence = u32_at(datagram, 8)?;
        let payload = datagram.get(HEADER..len)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, sequence, payload })
    })
}

/// The attributes in `bytes` as (kind, value); stops at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        // The upper bits of the kind are flags.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The number at `at`, if there are enough bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The number at `at`, if there are enough bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A socket to the kernel's routing.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no networking.
    pub fn open() -> Result<Self, Errno> {
        let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        let socket = socket(AddressFamily::Netlink, kind.0, kind.1, kind.2)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and waits for the kernel's answer; `each` sees what a dump returns.
    ///
    /// # Errors
    /// The errno of the kernel's answer, or `EAGAIN` without one.
    pub fn request(&mut self, message: Message, mut each: impl FnMut(Received)) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        retry(|| send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()))?;
        let mut datagram = vec![0; 32 << 10];
        loop {
            let len = retry(|| recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty()))?;
            for received in messages(&datagram[..len.min(datagram.len())]) {
                if received.sequence != self.sequence {
                    continue;
                }
                match i32::from(received.kind) {
                    libc::NLMSG_ERROR => return answer(received.payload),
                    libc::NLMSG_DONE => return Ok(()),
                    _ => each(received),
                }
            }
        }
    }
}

/// `struct nlmsgerr`: zero or a negative errno.
fn answer(payload: &[u8]) -> Result<(), Errno> {
    match u32_at(payload, 0).map(|code| code as i32) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code.wrapping_neg())),
        None => Err(Errno::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let bytes = Message::new(libc::RTM_NEWLINK, 0).link(7, 1, 1).attribute(libc::IFLA_IFNAME, b"eth0\0").finish(9);
        let expected = [
            &44u32.to_ne_bytes()[..],
            &16u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &9u32.to_ne_bytes(),
            &[0; 4],
            &[0; 4],
            &7u32.to_ne_bytes(),
            &1u32.to_ne_bytes(),
            &1u32.to_ne_bytes(),
            &9u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            b"eth0\0\0\0\0"[..8].as_ref(),
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn answers_are_understood() {
        assert_eq!(answer(&0i32.to_ne_bytes()), Ok(()));
        assert_eq!(answer(&(-libc::EEXIST).to_ne_bytes()), Err(Errno::EEXIST));
        assert_eq!(answer(&[]), Err(Errno::EBADMSG));
    }

    #[test]
    fn a_dump_of_the_real_kernel_ends() {
        let mut seen = 0;
        let dump = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP).link(0, 0, 0);
        Netlink::open().unwrap().request(dump, |_| seen += 1).unwrap();
        assert!(seen >= 1, "every namespace has a loopback interface");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }

        #[test]
        fn attributes_round_trip(values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let mut message = Message::new(1, 0);
            for (kind, value) in &values {
                message = message.attribute(*kind, value);
            }
            let bytes = message.finish(1);
            let only: Vec<_> = messages(&bytes).collect();
            prop_assert_eq!(only.len(), 1);
            let found: Vec<_> = attributes(only[0].payload).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(found, values);
        }
    }
}
