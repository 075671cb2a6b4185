//! The socket.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_timeout;
use rustix::net::{bind, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{messages, Request};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST.
pub(super) const REQUEST: u16 = 0x1;
/// NLM_F_ACK.
pub(super) const ACK: u16 = 0x4;
/// NLM_F_EXCL.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// NLM_F_CREATE.
pub(super) const CREATE: u16 = 0x400;
/// NLM_F_DUMP.
pub(super) const DUMP: u16 = 0x300;
/// The kernel's datagrams are no larger than this.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; this is for a kernel that does not.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// A netlink socket in the calling thread's network namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open() -> io::Result<Self> {
        // Without a protocol: NETLINK_ROUTE is number 0.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    pub(super) fn execute(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, |_, _| {})
    }

    /// Sends a request and hands type and body of every answer to `each`.
    pub(super) fn dump(&mut self, request: Request, each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.exchange(request, each)
    }

    fn exchange(&mut self, request: Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.fd, &request.finish(self.sequence), SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (_, len) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            for message in messages(buffer.get(..len).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledged(message.body),
                    kind => each(kind, message.body),
                }
            }
        }
    }
}

/// struct nlmsgerr: a negated errno, 0 for success.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(-libc::EBADMSG, i32::from_ne_bytes);
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}
