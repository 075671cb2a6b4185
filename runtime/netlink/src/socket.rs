//! The socket: requests, acknowledgements and dumps.

use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    DefaultNla, Emitable, ErrorBuffer, NetlinkBuffer, NetlinkHeader, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLM_F_ACK,
    NLM_F_DUMP, NLM_F_REQUEST,
};
use nix::errno::Errno;
use nix::sys::socket::{
    recv, send, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel's datagrams are at most this long.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once. The timeout keeps a bug from blocking a thread for ever.
const TIMEOUT_S: i64 = 10;

/// A netlink socket for requests about the network.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Errno> {
        let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        let socket = socket(AddressFamily::Netlink, kind.0, kind.1, kind.2)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_S))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request of type `kind` (`RTM_…`) and waits for the kernel's acknowledgement. `flags` are those beside
    /// `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(crate) fn execute(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> Result<(), Errno> {
        let request = request(kind, flags | NLM_F_ACK, body);
        self.exchange(request, &mut |_, _| {})
    }

    /// Sends a dump request and passes type and body of every answer to `each`.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        body: &impl Emitable,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Errno> {
        self.exchange(request(kind, NLM_F_DUMP, body), &mut each)
    }

    fn exchange(&mut self, mut request: Vec<u8>, each: &mut dyn FnMut(u16, &[u8])) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        NetlinkBuffer::new(&mut request).set_sequence_number(self.sequence);
        retry(|| send(self.socket.as_raw_fd(), &request, MsgFlags::empty()))?;
        let mut datagram = vec![0; BUFFER];
        loop {
            let len = retry(|| recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty()))?;
            for message in messages(datagram.get(..len).unwrap_or_default()) {
                if message.sequence_number() != self.sequence {
                    continue;
                }
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledged(message.payload()),
                    kind => each(kind, message.payload()),
                }
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A message with plain attributes. The requests of the small agent use it: the library's own message types carry the code
/// for every attribute of the kernel, which made the static agent 8 % larger.
pub(crate) struct Plain<H> {
    pub(crate) header: H,
    pub(crate) attributes: Vec<DefaultNla>,
}

impl<H: Emitable> Emitable for Plain<H> {
    fn buffer_len(&self) -> usize {
        self.header.buffer_len() + self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(self.header.buffer_len());
        self.header.emit(header);
        self.attributes.as_slice().emit(attributes);
    }
}

/// A whole message; the socket fills in the sequence number.
fn request(kind: u16, flags: u16, body: &impl Emitable) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    let start = header.buffer_len();
    let mut bytes = vec![0; start + body.buffer_len()];
    header.length = bytes.len() as u32;
    header.message_type = kind;
    header.flags = flags | NLM_F_REQUEST;
    header.emit(&mut bytes);
    body.emit(&mut bytes[start..]);
    bytes
}

/// The messages of a datagram up to the first malformed one.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let next = (message.length() as usize).next_multiple_of(NLMSG_ALIGNTO.into());
        datagram = datagram.get(next..).unwrap_or_default();
        Some(message)
    })
}

/// `struct nlmsgerr`: zero or a negative errno.
fn acknowledged(payload: &[u8]) -> Result<(), Errno> {
    let error = ErrorBuffer::new_checked(payload).map_err(|_| Errno::EBADMSG)?;
    match error.code() {
        None => Ok(()),
        Some(code) => Err(Errno::from_raw(code.get().wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::{LinkHeader, LinkMessage};
    use proptest::prelude::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        let bytes = request(libc::RTM_NEWLINK, NLM_F_ACK, &message);
        let expected = [
            &32u32.to_ne_bytes()[..],
            &16u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &[0; 12],
            &7u32.to_ne_bytes(),
            &[0; 8],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn acknowledgements_are_understood() {
        assert_eq!(acknowledged(&0i32.to_ne_bytes()), Ok(()));
        assert_eq!(acknowledged(&(-libc::EEXIST).to_ne_bytes()), Err(Errno::EEXIST));
        assert_eq!(acknowledged(&[]), Err(Errno::EBADMSG));
    }

    #[test]
    fn a_dump_of_the_real_kernel_ends() {
        let mut seen = 0;
        Netlink::open().unwrap().dump(libc::RTM_GETLINK, &LinkHeader::default(), |_, _| seen += 1).unwrap();
        assert!(seen >= 1, "every namespace has a loopback interface");
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            let _ = acknowledged(&bytes);
        }
    }
}
