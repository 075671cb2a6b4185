//! vsock sockets (VIRTIO 1.2, 5.10; vsock(7)): the listener and the push to the host. Runs on the main thread, at
//! start.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, HOST_CID};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    bind, connect, listen, recv, socket, AddressFamily, Backlog, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType, VsockAddr,
};

use crate::connection::{retry, HostConnection, Listener};
use crate::sys::accept_vsock;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening vsock socket.
pub struct VsockListener(OwnedFd);

impl VsockListener {
    /// Listens on `port` of every CID this guest has.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` if the kernel has no vsock.
    pub fn bind(port: u32) -> io::Result<Self> {
        let socket = new_socket()?;
        bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Self(socket))
    }
}

impl Listener for VsockListener {
    fn accept(&self) -> io::Result<HostConnection> {
        loop {
            let (socket, cid) = retry(|| accept_vsock(self.0.as_fd()))?;
            // Processes of the guest can reach this port too; the agent serves the host only.
            if cid == HOST_CID {
                return Ok(HostConnection::new(socket));
            }
        }
    }
}

/// Connects to `port` of `cid`. If the device does not exist yet, waits at most `limit` for the kernel to announce it.
/// (The kernel itself waits at most 2 s for the peer's answer.)
///
/// # Errors
/// `ENODEV` if no device appeared, `ECONNRESET` or `ETIMEDOUT` if the host does not listen.
pub fn dial(cid: u32, port: u32, limit: Duration) -> io::Result<HostConnection> {
    let attempt = || -> Result<HostConnection, Errno> {
        let socket = new_socket()?;
        connect(socket.as_raw_fd(), &VsockAddr::new(cid, port))?;
        Ok(HostConnection::new(socket))
    };
    match attempt() {
        Err(Errno::ENODEV) => {}
        result => return Ok(result?),
    }
    // Listen first, then try again, lest a device that appears in between is missed.
    let announcements = DeviceEvents::open()?;
    let deadline = Deadline::after(limit);
    loop {
        match attempt() {
            Err(Errno::ENODEV) if announcements.wait(deadline)? => {}
            result => return Ok(result?),
        }
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// The kernel's announcements of devices (uevents).
struct DeviceEvents(OwnedFd);

impl DeviceEvents {
    fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkKObjectUEvent)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Waits for at least one announcement; `false` if `deadline` passed.
    fn wait(&self, deadline: Instant) -> Result<bool, Errno> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if retry(|| poll(&mut fds, timeout))? == 0 {
            return Ok(false);
        }
        let mut event = [0; 8192];
        // Drained, so that a burst of events costs one more attempt, not one each. An overrun counts as an event.
        while matches!(recv(self.0.as_raw_fd(), &mut event, MsgFlags::MSG_DONTWAIT), Ok(1..)) {}
        Ok(true)
    }
}
