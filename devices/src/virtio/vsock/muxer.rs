//! All connections from activation to deactivation: finds the connection of a packet, gives each connection its turn to
//! send, and refuses the packets that belong to none. The device's worker owns it.
//!
//! The guest cannot exceed its bounds: [`MAX_CONNECTIONS`], [`MAX_REFUSALS`], and per connection the buffer that credit
//! allows (`credit::BUF_ALLOC`). A list of connections is never longer than the number of connections.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Turn, Verdict, VsockConnection};
use super::handle::{ConnectRequest, MuxerCommand, VsockShared};
use super::packet::{Op, PacketHeader, Ports, HOST_CID, TYPE_STREAM};
use super::rx::RxRing;
use super::socket::StreamSocket;
use crate::virtio::chain::ChainReader;
use crate::virtio::QueueError;
use crate::warn_limited;

/// Most connections, including requested ones and those that only drain.
pub const MAX_CONNECTIONS: usize = 1024;
/// Most RSTs that wait for buffers of the guest; further ones are not sent.
pub const MAX_REFUSALS: usize = 1024;
/// Longest time that a guest may take to confirm the end of a connection. In the other direction Linux waits 8 s.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// First port of the host for its own connections.
const FIRST_OWN_PORT: u32 = 1 << 30;
/// Most events that one system call returns.
const EVENTS: usize = 64;

type Token = u64;

/// A connection and its state in the muxer.
#[derive(Debug)]
struct Entry {
    connection: VsockConnection,
    /// The connection is in `Muxer::turns`.
    queued: bool,
    /// The muxer watches the socket for room.
    watched_for_room: bool,
    /// The connection is in `Muxer::closing`.
    closing: bool,
}

/// All connections of a driver.
pub struct Muxer {
    guest_cid: u64,
    shared: Arc<VsockShared>,
    epoll: Epoll,
    entries: HashMap<Token, Entry>,
    tokens: HashMap<Ports, Token>,
    /// Connections that the guest ended, with bytes that the host has not read.
    drains: HashMap<Token, StreamSocket>,
    /// Requests of the host that the guest has not answered.
    requests: HashMap<Ports, ConnectRequest>,
    /// Requests of the host that have not been sent to the guest.
    unsent: VecDeque<Ports>,
    refusals: VecDeque<PacketHeader>,
    /// Connections that have packets for the guest.
    turns: VecDeque<Token>,
    /// Connections whose end the guest has to confirm, sorted by their deadline.
    closing: VecDeque<(Instant, Token)>,
    next_token: Token,
    next_port: u32,
    /// [`MAX_CONNECTIONS`], or fewer in tests.
    limit: usize,
}

impl AsRawFd for Muxer {
    /// Readable when [`Muxer::host_events`] has work.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Muxer {
    /// A muxer without connections.
    pub fn new(guest_cid: u64, shared: Arc<VsockShared>) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            shared,
            epoll: Epoll::new()?,
            entries: HashMap::new(),
            tokens: HashMap::new(),
            drains: HashMap::new(),
            requests: HashMap::new(),
            unsent: VecDeque::new(),
            refusals: VecDeque::new(),
            turns: VecDeque::new(),
            closing: VecDeque::new(),
            next_token: 0,
            next_port: FIRST_OWN_PORT,
            limit: MAX_CONNECTIONS,
        })
    }

    /// Handles a packet from the guest. `payload` is everything after the header.
    pub fn packet(&mut self, header: &PacketHeader, payload: ChainReader<'_>) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            warn_limited!("dropped a vsock packet from {} to {}", header.src_cid, header.dst_cid);
            return;
        }
        let ports = header.ports_from_guest();
        if header.kind != TYPE_STREAM {
            self.refuse(header);
        } else if let Some(&token) = self.tokens.get(&ports) {
            self.connection_packet(token, header, payload);
        } else if let Some(connect) = self.requests.remove(&ports) {
            self.request_answered(connect, header);
        } else if header.op() == Some(Op::Request) {
            self.guest_request(header);
        } else {
            self.refuse(header);
        }
    }

    fn connection_packet(&mut self, token: Token, header: &PacketHeader, payload: ChainReader<'_>) {
        if header.op() == Some(Op::Rst) {
            self.remove(token);
            return;
        }
        let payload = match header.op() {
            Some(Op::Rw) if header.len > payload.remaining() => {
                warn_limited!("a vsock packet announces {} bytes and has {}", header.len, payload.remaining());
                return self.reset(token);
            }
            _ => payload.limited(header.len),
        };
        let Some(entry) = self.entries.get_mut(&token) else { return };
        match entry.connection.packet(header, payload) {
            Verdict::Open => self.settle(token),
            Verdict::Reset | Verdict::Ended => self.reset(token),
        }
    }

    /// Handles the guest's answer to a request of the host.
    fn request_answered(&mut self, connect: ConnectRequest, header: &PacketHeader) {
        let ports = header.ports_from_guest();
        self.unsent.retain(|unsent| *unsent != ports);
        if header.op() != Some(Op::Response) {
            self.refuse(header);
            return connect.answer(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        match StreamSocket::pair() {
            Ok((socket, host)) => {
                self.insert(ports, socket, false, header);
                connect.answer(Ok(host));
            }
            Err(error) => {
                self.refuse(header);
                connect.answer(Err(error));
            }
        }
    }

    /// Handles the guest's request for a connection.
    fn guest_request(&mut self, header: &PacketHeader) {
        let ports = header.ports_from_guest();
        let listener = self.shared.listener(ports.host);
        let accepted = listener.filter(|_| self.has_room()).and_then(|listener| self.accept(ports.host, &listener));
        match accepted {
            Some(socket) => self.insert(ports, socket, true, header),
            None => self.refuse(header),
        }
    }

    fn accept(&self, port: u32, listener: &SyncSender<UnixStream>) -> Option<StreamSocket> {
        let (socket, host) = match StreamSocket::pair() {
            Ok(pair) => pair,
            Err(error) => {
                warn_limited!("vsock port {port}: no socket for a connection from the guest: {error}");
                return None;
            }
        };
        match listener.try_send(host) {
            Ok(()) => Some(socket),
            Err(TrySendError::Full(_)) => {
                warn_limited!("vsock port {port}: refused a connection from the guest: too many wait to be accepted");
                None
            }
            Err(TrySendError::Disconnected(_)) => {
                self.shared.unlisten(port);
                None
            }
        }
    }

    fn has_room(&self) -> bool {
        self.entries.len() + self.drains.len() + self.requests.len() < self.limit
    }

    fn insert(&mut self, ports: Ports, socket: StreamSocket, answer: bool, header: &PacketHeader) {
        let token = self.next_token;
        self.next_token += 1;
        if let Err(error) = self.epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), interest(token, false)) {
            warn_limited!("vsock {ports:?}: cannot wait for a socket: {error}");
            socket.close();
            return self.refuse(header);
        }
        let connection = VsockConnection::new(ports, socket, answer, header);
        self.tokens.insert(ports, token);
        self.entries.insert(token, Entry { connection, queued: false, watched_for_room: false, closing: false });
        self.settle(token);
    }

    /// Gives a connection the turn and the events that it needs now. Called after every change of its state.
    fn settle(&mut self, token: Token) {
        let Some(entry) = self.entries.get_mut(&token) else { return };
        if entry.connection.wants_turn() && !entry.queued {
            entry.queued = true;
            self.turns.push_back(token);
        }
        let backed_up = entry.connection.is_backed_up();
        if backed_up != entry.watched_for_room {
            entry.watched_for_room = backed_up;
            if let Some(socket) = entry.connection.socket() {
                watch(&self.epoll, socket, token, backed_up);
            }
        }
    }

    /// Sends RST and removes the connection.
    fn reset(&mut self, token: Token) {
        if let Some(entry) = self.entries.get(&token) {
            let rst = PacketHeader::to_guest(self.guest_cid, entry.connection.ports(), Op::Rst);
            self.push_refusal(rst);
        }
        self.remove(token);
    }

    /// Removes a connection. Bytes that the guest sent before still reach the host.
    fn remove(&mut self, token: Token) {
        let Some(entry) = self.entries.remove(&token) else { return };
        self.tokens.remove(&entry.connection.ports());
        // `fill` may never get to a stale token: a guest that takes no packets would add one per connection.
        if entry.queued {
            self.turns.retain(|waiting| *waiting != token);
        }
        if entry.closing {
            self.closing.retain(|(_, waiting)| *waiting != token);
        }
        match entry.connection.into_socket() {
            Some(socket) if socket.buffered() > 0 => {
                watch(&self.epoll, &socket, token, true);
                socket.end_reading();
                self.drains.insert(token, socket);
            }
            Some(socket) => socket.close(),
            None => {}
        }
    }

    fn refuse(&mut self, header: &PacketHeader) {
        // RST is never answered with RST, or the two ends would go on forever.
        if header.op() != Some(Op::Rst) {
            self.push_refusal(header.refusal());
        }
    }

    fn push_refusal(&mut self, rst: PacketHeader) {
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push_back(rst);
        } else {
            warn_limited!("the vsock driver takes no packets: did not send RST");
        }
    }

    /// Executes the commands of the handles.
    pub fn commands(&mut self) {
        for command in self.shared.take_commands() {
            match command {
                MuxerCommand::Connect(connect) => self.connect(connect),
                MuxerCommand::Cancel(id) => self.cancel(id),
            }
        }
    }

    fn connect(&mut self, connect: ConnectRequest) {
        if !self.has_room() {
            return connect.answer(Err(io::Error::other(format!(
                "the virtual machine has {} vsock connections already; close some",
                self.limit
            ))));
        }
        let ports = self.free_ports(connect.port);
        self.requests.insert(ports, connect);
        self.unsent.push_back(ports);
    }

    /// A port of the host that is not in use with this port of the guest. One exists, since there are far fewer
    /// connections than ports.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port = match self.next_port.checked_add(1) {
                // The last port is VMADDR_PORT_ANY.
                Some(u32::MAX) | None => FIRST_OWN_PORT,
                Some(next) => next,
            };
            if !self.tokens.contains_key(&ports) && !self.requests.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn cancel(&mut self, id: u64) {
        let Some(ports) = self.requests.iter().find(|(_, connect)| connect.id == id).map(|(ports, _)| *ports) else {
            return;
        };
        self.requests.remove(&ports);
        let before = self.unsent.len();
        self.unsent.retain(|unsent| *unsent != ports);
        if self.unsent.len() == before {
            self.push_refusal(PacketHeader::to_guest(self.guest_cid, ports, Op::Rst));
        }
    }

    /// Handles all events of sockets.
    pub fn host_events(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS];
        loop {
            let count = match self.epoll.wait(0, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            for event in events.iter().take(count) {
                self.host_event(event.data(), EventSet::from_bits_truncate(event.events()));
            }
            if count < EVENTS {
                return Ok(());
            }
        }
    }

    fn host_event(&mut self, token: Token, events: EventSet) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.connection.host_event(events);
            self.settle(token);
        } else if let Some(socket) = self.drains.get_mut(&token)
            && (socket.flush().is_err() || socket.buffered() == 0)
            && let Some(socket) = self.drains.remove(&token)
        {
            socket.close();
        }
    }

    /// Sends packets to the guest while there are packets and buffers. True if the budget of the round ended first. An
    /// error means that the driver broke the protocol of the queue.
    pub fn fill(&mut self, rx: &mut RxRing<'_>) -> Result<bool, QueueError> {
        while let Some(rst) = self.refusals.front() {
            if !rx.control(rst)? {
                return Ok(rx.exhausted());
            }
            self.refusals.pop_front();
        }
        while let Some(&ports) = self.unsent.front() {
            let mut header = PacketHeader::to_guest(self.guest_cid, ports, Op::Request);
            header.buf_alloc = super::credit::BUF_ALLOC;
            if !rx.control(&header)? {
                return Ok(rx.exhausted());
            }
            self.unsent.pop_front();
        }
        while let Some(&token) = self.turns.front() {
            let Some(entry) = self.entries.get_mut(&token) else {
                self.turns.pop_front();
                continue;
            };
            match entry.connection.turn(rx, self.guest_cid)? {
                Turn::Done => {
                    entry.queued = false;
                    self.turns.pop_front();
                }
                Turn::Again => self.turns.rotate_left(1),
                Turn::NoBuffer => return Ok(rx.exhausted()),
            }
            if entry.connection.is_closing() && !entry.closing {
                entry.closing = true;
                self.closing.push_back((Instant::now() + SHUTDOWN_TIMEOUT, token));
            }
        }
        Ok(false)
    }

    /// Whether there are packets for the guest.
    pub fn has_work(&self) -> bool {
        !self.refusals.is_empty() || !self.unsent.is_empty() || !self.turns.is_empty()
    }

    /// The time at which [`Self::expire`] has work.
    pub fn deadline(&self) -> Option<Instant> {
        self.closing.front().map(|(deadline, _)| *deadline)
    }

    /// Resets connections whose end the guest has not confirmed in time.
    pub fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            if let Some((_, token)) = self.closing.pop_front() {
                self.reset(token);
            }
        }
    }

    /// Ends every connection, as the driver is gone. Requests without an answer wait for the next driver.
    pub fn disconnect(&mut self) {
        let sockets = self.entries.drain().filter_map(|(_, entry)| entry.connection.into_socket());
        let lost: usize =
            sockets.chain(self.drains.drain().map(|(_, socket)| socket)).map(StreamSocket::close_at_once).sum();
        if lost > 0 {
            warn_limited!(
                "{lost} bytes of vsock streams were lost with the guest's driver, because the host did not read them"
            );
        }
        self.tokens.clear();
        self.unsent.clear();
        self.refusals.clear();
        self.turns.clear();
        self.closing.clear();
        self.shared.put_back(mem::take(&mut self.requests).into_values());
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        let connections = self.entries.values().filter_map(|entry| entry.connection.socket());
        connections.chain(self.drains.values()).map(StreamSocket::buffered).sum()
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.entries.len(), self.drains.len() + self.requests.len(), self.refusals.len())
    }

    /// Every list that the guest can lengthen, with its bound: name, length, bound.
    #[cfg(test)]
    pub(super) fn bounds(&self) -> [(&'static str, usize, usize); 9] {
        use super::credit::BUF_ALLOC;
        let sockets = self.entries.values().filter_map(|entry| entry.connection.socket()).chain(self.drains.values());
        // A vector that grows byte by byte has up to twice the room that it needs.
        let heap: usize = sockets.map(StreamSocket::heap).sum();
        let connections = self.entries.len() + self.drains.len();
        [
            ("connections, drains and requests", connections + self.requests.len(), self.limit),
            ("descriptors", self.descriptors(), connections),
            ("bytes of backlogs", heap, connections * 2 * BUF_ALLOC as usize),
            ("bytes for the host", self.buffered(), connections * BUF_ALLOC as usize),
            ("refusals", self.refusals.len(), MAX_REFUSALS),
            ("ports", self.tokens.len(), self.entries.len()),
            ("turns", self.turns.len(), self.entries.values().filter(|entry| entry.queued).count()),
            ("closing", self.closing.len(), self.entries.values().filter(|entry| entry.closing).count()),
            ("unsent", self.unsent.len(), self.requests.len()),
        ]
    }

    #[cfg(test)]
    fn descriptors(&self) -> usize {
        self.entries.values().filter(|entry| entry.connection.socket().is_some()).count() + self.drains.len()
    }
}

/// Edge-triggered: a stream with bytes for a guest that takes none must not keep the worker awake.
fn interest(token: Token, room: bool) -> EpollEvent {
    let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    if room {
        events |= EventSet::OUT;
    }
    EpollEvent::new(events, token)
}

/// `epoll_ctl` checks the socket again when its events are modified, so no edge is missed.
fn watch(epoll: &Epoll, socket: &StreamSocket, token: Token, room: bool) {
    if let Err(error) = epoll.ctl(ControlOperation::Modify, socket.as_raw_fd(), interest(token, room)) {
        warn_limited!("vsock: cannot wait for a socket: {error}");
    }
}

#[cfg(test)]
#[path = "muxer_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "muxer_proptests.rs"]
mod proptests;
