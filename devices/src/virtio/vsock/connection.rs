//! One connection: the state machine between a guest's packets and the device's end of a socketpair. The muxer calls it
//! on the device's worker.
//!
//! ```text
//!   host → guest   flowing ──(host wrote its last byte, it is delivered)──▶ SHUTDOWN(send) sent to the guest
//!   guest → host   flowing ──(host reads no more)────────────────────────▶ SHUTDOWN(receive) sent to the guest
//!                     └─────(guest sends SHUTDOWN(send))─────────────────▶ the host reads to the end
//!
//!   both sent:  the guest answers with RST, or the muxer resets the connection after SHUTDOWN_TIMEOUT
//!   guest sent SHUTDOWN of both:  ended; the guest gets RST, buffered bytes still reach the host
//! ```

use std::io;

use vmm_sys_util::epoll::EventSet;

use super::credit::Credit;
use super::packet::{Op, PacketHeader, Ports, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::rx::{RxRing, RxSent};
use super::socket::StreamSocket;
use crate::virtio::chain::ChainReader;
use crate::virtio::QueueError;

/// The state of a connection after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The connection goes on.
    Open,
    /// The guest broke the protocol: the muxer sends RST.
    Reset,
    /// The guest ended the connection: the muxer sends RST, and buffered bytes still go to the host.
    Ended,
}

/// The result of a turn to send to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is nothing left to send.
    Done,
    /// There may be more to send.
    Again,
    /// The guest has no buffers.
    NoBuffer,
}

/// A connection that both sides have accepted.
#[derive(Debug)]
pub struct VsockConnection {
    ports: Ports,
    /// `None` once both directions are closed on the host's side.
    socket: Option<StreamSocket>,
    credit: Credit,
    /// RESPONSE has to be sent.
    response_due: bool,
    /// The guest asked for CREDIT_UPDATE.
    update_requested: bool,
    /// CREDIT_REQUEST was sent and the guest has not answered it.
    credit_requested: bool,
    /// The socket may have something to read.
    readable: bool,
    /// SHUTDOWN flags that the guest sent.
    guest_shutdown_flags: u32,
    /// SHUTDOWN flags of the host's side.
    host_shutdown_flags: u32,
    /// The flags of `host_shutdown_flags` that were sent to the guest.
    shutdown_sent: u32,
}

impl VsockConnection {
    /// A connection over the device's end of a socketpair. `response_due`: the guest asked for the connection and waits
    /// for RESPONSE. `header` is the packet that established the connection.
    pub fn new(ports: Ports, socket: StreamSocket, response_due: bool, header: &PacketHeader) -> Self {
        let mut credit = Credit::default();
        credit.update_peer(header);
        Self {
            ports,
            socket: Some(socket),
            credit,
            response_due,
            update_requested: false,
            credit_requested: false,
            readable: true,
            guest_shutdown_flags: 0,
            host_shutdown_flags: 0,
            shutdown_sent: 0,
        }
    }

    /// The ports, which identify the connection.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The device's end of the socketpair, unless both directions are closed on the host's side.
    pub fn socket(&self) -> Option<&StreamSocket> {
        self.socket.as_ref()
    }

    /// Ends the connection and returns its socket.
    pub fn into_socket(self) -> Option<StreamSocket> {
        self.socket
    }

    /// Whether bytes wait for room in the socket.
    pub fn is_backed_up(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.buffered() > 0)
    }

    /// Whether the guest got SHUTDOWN of both directions and only has to confirm it.
    pub fn is_closing(&self) -> bool {
        self.shutdown_sent == SHUTDOWN_BOTH
    }

    /// Whether a turn has something to do.
    pub fn wants_turn(&self) -> bool {
        self.response_due
            || self.update_requested
            || self.credit.update_due()
            || (self.may_read() && (self.credit.peer_free() > 0 || !self.credit_requested))
            || self.host_shutdown_flags != self.shutdown_sent
    }

    /// Handles a packet of this connection from the guest, except RST.
    pub fn packet(&mut self, header: &PacketHeader, payload: ChainReader<'_>) -> Verdict {
        self.credit.update_peer(header);
        if self.credit.peer_free() > 0 {
            self.credit_requested = false;
        }
        match header.op() {
            Some(Op::Rw) => self.receive(payload),
            Some(Op::Shutdown) => self.guest_shutdown(header.flags),
            Some(Op::CreditRequest) => {
                self.update_requested = true;
                Verdict::Open
            }
            Some(Op::CreditUpdate) => Verdict::Open,
            Some(Op::Request | Op::Response | Op::Rst) | None => Verdict::Reset,
        }
    }

    fn receive(&mut self, payload: ChainReader<'_>) -> Verdict {
        let len = payload.remaining();
        if self.guest_shutdown_flags & SHUTDOWN_SEND != 0 || !self.credit.receive(len) {
            return Verdict::Reset;
        }
        let listening = self.host_shutdown_flags & SHUTDOWN_RECEIVE == 0;
        match self.socket.as_mut().filter(|_| listening).map(|socket| socket.write(payload)) {
            Some(Ok(written)) => self.forwarded(written),
            Some(Err(error)) => self.host_closed_read(&error),
            // The guest sent this before it got the SHUTDOWN of the host.
            None => self.credit.forward(len),
        }
        Verdict::Open
    }

    fn guest_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown_flags |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown_flags == SHUTDOWN_BOTH {
            return Verdict::Ended;
        }
        if let Some(socket) = &self.socket {
            if self.guest_shutdown_flags & SHUTDOWN_RECEIVE != 0 {
                socket.end_reading();
            }
            if self.guest_shutdown_flags & SHUTDOWN_SEND != 0 && socket.buffered() == 0 {
                socket.end_writing();
            }
        }
        Verdict::Open
    }

    /// Handles `events` of the socket.
    pub fn host_event(&mut self, events: EventSet) {
        self.readable = true;
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            // Both directions are shut down at the host's end, or it is closed; its last bytes can still be read.
            self.host_closed_read(&io::ErrorKind::BrokenPipe.into());
            if self.guest_shutdown_flags & SHUTDOWN_RECEIVE != 0 {
                self.host_closed_write();
            }
        } else if self.is_backed_up() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(socket) = self.socket.as_mut() else { return };
        match socket.flush() {
            Ok(written) => {
                if socket.buffered() == 0 && self.guest_shutdown_flags & SHUTDOWN_SEND != 0 {
                    socket.end_writing();
                }
                self.forwarded(written);
            }
            Err(error) => self.host_closed_read(&error),
        }
    }

    fn forwarded(&mut self, count: usize) {
        // At most the number of bytes received, which is counted in 32 bits.
        self.credit.forward(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// The host closed its reading side: it takes no more bytes.
    fn host_closed_read(&mut self, error: &io::Error) {
        log::debug!("vsock {:?}: the host closed its reading side: {error}", self.ports);
        self.host_shutdown_flags |= SHUTDOWN_RECEIVE;
        self.credit.forward(self.credit.buffered());
        if let Some(socket) = &mut self.socket {
            socket.forget();
        }
        self.drop_closed_socket();
    }

    /// The host closed its writing side: it sends no more bytes.
    fn host_closed_write(&mut self) {
        self.host_shutdown_flags |= SHUTDOWN_SEND;
        self.readable = false;
        self.drop_closed_socket();
    }

    fn drop_closed_socket(&mut self) {
        if self.host_shutdown_flags == SHUTDOWN_BOTH {
            self.socket = None;
        }
    }

    fn may_read(&self) -> bool {
        self.readable
            && self.host_shutdown_flags & SHUTDOWN_SEND == 0
            && self.guest_shutdown_flags & SHUTDOWN_RECEIVE == 0
    }

    /// Sends all packets that are due, with at most one batch of payload. An error means that the driver broke the
    /// protocol of the queue.
    pub fn turn(&mut self, rx: &mut RxRing<'_>, guest_cid: u64) -> Result<Turn, QueueError> {
        if self.response_due {
            if !self.control(rx, guest_cid, Op::Response, 0)? {
                return Ok(Turn::NoBuffer);
            }
            self.response_due = false;
        }
        if self.may_read() {
            if self.credit.peer_free() > 0 {
                match self.pass_on(rx, guest_cid)? {
                    Turn::Done => {}
                    turn => return Ok(turn),
                }
            } else if !self.credit_requested {
                if !self.control(rx, guest_cid, Op::CreditRequest, 0)? {
                    return Ok(Turn::NoBuffer);
                }
                self.credit_requested = true;
            }
        }
        if (self.update_requested || self.credit.update_due()) && !self.control(rx, guest_cid, Op::CreditUpdate, 0)? {
            return Ok(Turn::NoBuffer);
        }
        if self.host_shutdown_flags != self.shutdown_sent {
            if !self.control(rx, guest_cid, Op::Shutdown, self.host_shutdown_flags)? {
                return Ok(Turn::NoBuffer);
            }
            self.shutdown_sent = self.host_shutdown_flags;
        }
        Ok(Turn::Done)
    }

    /// Passes one batch of the host's bytes to the guest. `Done` if there is nothing to read now.
    fn pass_on(&mut self, rx: &mut RxRing<'_>, guest_cid: u64) -> Result<Turn, QueueError> {
        let Some(socket) = &self.socket else { return Ok(Turn::Done) };
        let mut header = PacketHeader::to_guest(guest_cid, self.ports, Op::Rw);
        let mut credit = self.credit;
        credit.fill_header(&mut header);
        let limit = credit.peer_free().min(MAX_PAYLOAD);
        match rx.data(header, limit, |vectors| socket.read(vectors))? {
            RxSent::NoBuffer => return Ok(Turn::NoBuffer),
            RxSent::Bytes(0) => self.host_closed_write(),
            RxSent::Bytes(count) => {
                credit.send(count);
                self.credit = credit;
                self.update_requested = false;
                return Ok(Turn::Again);
            }
            RxSent::Failed(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            RxSent::Failed(error) => {
                // The host closed its end with unread bytes in it.
                self.host_closed_read(&error);
                self.host_closed_write();
            }
        }
        Ok(Turn::Done)
    }

    fn control(&mut self, rx: &mut RxRing<'_>, guest_cid: u64, op: Op, flags: u32) -> Result<bool, QueueError> {
        let mut header = PacketHeader { flags, ..PacketHeader::to_guest(guest_cid, self.ports, op) };
        let mut credit = self.credit;
        credit.fill_header(&mut header);
        let sent = rx.control(&header)?;
        if sent {
            self.credit = credit;
            self.update_requested = false;
        }
        Ok(sent)
    }
}
