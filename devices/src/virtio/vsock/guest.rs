//! The guest's side of the two queues, for tests: sends and receives packets without any state of connections.

use std::collections::HashMap;

use vm_memory::{Address, GuestAddress};

use super::packet::{Op, PacketHeader, Ports, HEADER_LEN, HOST_CID, TYPE_STREAM};
use crate::testing::queue::WRITE;
use crate::testing::{Descriptor, DriverQueue, TestRam};

pub const GUEST_CID: u64 = 3;
/// Largest packet that [`TestGuest::send`] takes.
pub const PACKET: usize = 64 * 1024;
/// Length of the buffers that Linux posts.
pub const RX_BUFFER: u32 = 4096;
const TX_SLOTS: usize = 16;

/// A driver without connections of its own.
pub struct TestGuest {
    pub ram: TestRam,
    pub rx: DriverQueue,
    pub tx: DriverQueue,
    /// Addresses and lengths of the posted buffers, by descriptor.
    posted: HashMap<u32, (GuestAddress, u32)>,
    slots: Vec<GuestAddress>,
    next_slot: usize,
    in_flight: usize,
}

impl TestGuest {
    pub fn new(ram: &TestRam, rx: DriverQueue, tx: DriverQueue) -> Self {
        let slots = (0..TX_SLOTS).map(|_| ram.alloc((HEADER_LEN + PACKET) as u64)).collect();
        Self { ram: ram.again(), rx, tx, posted: HashMap::new(), slots, next_slot: 0, in_flight: 0 }
    }

    /// Posts `count` new receive buffers of `len` bytes.
    pub fn post(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            let addr = self.ram.alloc(u64::from(len));
            self.post_at(addr, len);
        }
        self.rx.kick();
    }

    fn post_at(&mut self, addr: GuestAddress, len: u32) {
        let head = self.rx.write_chain(&[Descriptor { addr: addr.raw_value(), len, flags: WRITE, next: 0 }]);
        self.posted.insert(u32::from(head), (addr, len));
        self.rx.publish(head);
    }

    /// Takes the next packet, if there is one, and posts its buffer again.
    pub fn receive(&mut self) -> Option<(PacketHeader, Vec<u8>)> {
        let (used, addr, len) = loop {
            let used = self.rx.used()?;
            let (addr, len) = self.posted.remove(&used.id).expect("a buffer that was posted");
            if used.len > 0 {
                break (used, addr, len);
            }
            assert!(len <= HEADER_LEN as u32, "a good buffer was given back empty");
        };
        assert!(used.len <= len, "more written than there is room for");
        let bytes = self.ram.read(addr, used.len as usize);
        self.post_at(addr, len);
        if self.rx.kick_wanted() {
            self.rx.kick();
        }
        let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().expect("a whole header");
        let header = PacketHeader::parse(header);
        assert_eq!(header.len as usize, payload.len());
        Some((header, payload.to_vec()))
    }

    /// Whether the transmit queue has room for one more packet.
    pub fn can_send(&mut self) -> bool {
        while self.tx.used().is_some() {
            self.in_flight -= 1;
        }
        self.in_flight < TX_SLOTS
    }

    /// Sends a packet. Its length is that of the payload, unless `header.len` is larger.
    pub fn send(&mut self, mut header: PacketHeader, payload: &[u8]) {
        assert!(self.can_send(), "the test keeps too many packets in flight");
        header.len = header.len.max(payload.len() as u32);
        let addr = self.slots[self.next_slot];
        self.next_slot = (self.next_slot + 1) % TX_SLOTS;
        self.in_flight += 1;
        self.ram.write(addr, &header.to_bytes());
        self.ram.write(addr.unchecked_add(HEADER_LEN as u64), payload);
        let len = (HEADER_LEN + payload.len()) as u32;
        let head = self.tx.write_chain(&[Descriptor { addr: addr.raw_value(), len, flags: 0, next: 0 }]);
        self.tx.publish(head);
        if self.tx.kick_wanted() {
            self.tx.kick();
        }
    }
}

/// A packet from the guest with a large receive buffer behind it.
pub fn packet(ports: Ports, op: Op) -> PacketHeader {
    PacketHeader {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        kind: TYPE_STREAM,
        op: op as u16,
        buf_alloc: 1 << 20,
        ..PacketHeader::default()
    }
}
