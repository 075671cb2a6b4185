//! One connection: the state machine between a guest's packets and the device's end of a socketpair. Called by the
//! muxer on the device's worker.
//!
//! ```text
//!   host → guest   flowing ──(host wrote its last byte, it is delivered)──▶ SHUTDOWN(send) told to the guest
//!   guest → host   flowing ──(host reads no more)────────────────────────▶ SHUTDOWN(receive) told to the guest
//!                     └─────(guest sends SHUTDOWN(send))─────────────────▶ the host reads to the end
//!
//!   told both:  the guest answers with RST, or is reset after a while (the muxer's business)
//!   guest sent SHUTDOWN of both:  ended; RST goes out, what is buffered still reaches the host
//! ```

use std::io;

use vmm_sys_util::epoll::EventSet;

use super::credit::Credit;
use super::packet::{Op, PacketHeader, Ports, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::rx::{RxRing, RxSent};
use super::socket::StreamSocket;
use crate::virtio::chain::ChainReader;
use crate::virtio::QueueError;

/// What the muxer does with a connection after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Goes on.
    Open,
    /// The guest broke the protocol: RST.
    Reset,
    /// The guest is done with it: RST in answer, the rest goes to the host.
    Ended,
}

/// How a turn to send to the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing left to send.
    Done,
    /// There may be more.
    Again,
    /// The guest has no buffers.
    NoBuffer,
}

/// A connection that both sides have agreed on.
#[derive(Debug)]
pub struct VsockConnection {
    ports: Ports,
    /// Gone once neither direction has a use for it.
    socket: Option<StreamSocket>,
    credit: Credit,
    /// RESPONSE is due.
    response_due: bool,
    /// CREDIT_UPDATE was asked for.
    update_requested: bool,
    /// CREDIT_REQUEST was sent and not answered.
    credit_requested: bool,
    /// The socket may have something to read.
    readable: bool,
    /// SHUTDOWN flags that the guest sent.
    guest_shutdown_flags: u32,
    /// SHUTDOWN flags that the guest has to know.
    host_shutdown_flags: u32,
    /// Of those, flags that were sent.
    shutdown_sent: u32,
}

impl VsockConnection {
    /// Over the device's end of a socketpair. `response_due`: the guest asked for it and waits for RESPONSE. `header` is the
    /// packet that made it.
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

    /// Which one it is.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its socket, while it has one.
    pub fn socket(&self) -> Option<&StreamSocket> {
        self.socket.as_ref()
    }

    /// Ends it from the device's side.
    pub fn into_socket(self) -> Option<StreamSocket> {
        self.socket
    }

    /// Whether bytes wait for the socket to have room.
    pub fn is_backed_up(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.buffered() > 0)
    }

    /// Whether the guest was told that the host is done both ways, and has only to confirm.
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

    /// A packet of this connection from the guest, which is not a RST.
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
            // Sent before the guest heard that nobody reads.
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

    /// The socket reported `events`.
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
        // No more than was received, which is counted in 32 bits.
        self.credit.forward(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// The host takes nothing any more.
    fn host_closed_read(&mut self, error: &io::Error) {
        log::debug!("vsock {:?}: the host reads no more: {error}", self.ports);
        self.host_shutdown_flags |= SHUTDOWN_RECEIVE;
        self.credit.forward(self.credit.buffered());
        if let Some(socket) = &mut self.socket {
            socket.forget();
        }
        self.drop_useless_socket();
    }

    /// The host has nothing to say any more.
    fn host_closed_write(&mut self) {
        self.host_shutdown_flags |= SHUTDOWN_SEND;
        self.readable = false;
        self.drop_useless_socket();
    }

    fn drop_useless_socket(&mut self) {
        if self.host_shutdown_flags == SHUTDOWN_BOTH {
            self.socket = None;
        }
    }

    fn may_read(&self) -> bool {
        self.readable
            && self.host_shutdown_flags & SHUTDOWN_SEND == 0
            && self.guest_shutdown_flags & SHUTDOWN_RECEIVE == 0
    }

    /// Sends what there is to send, but no more than one batch of payload.
    ///
    /// # Errors
    /// The driver broke the protocol of the queue.
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

    /// One batch of the host's bytes to the guest. `Done` when there is nothing to read now.
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
                // Closed over bytes that it never read: there is no one left.
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
