//! The driver's side of a queue.

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::{Line, TestRam};
use crate::virtio::DeviceQueue;

/// The next descriptor of the chain follows.
pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
/// The device writes the buffer.
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// A buffer of a valid request.
#[derive(Clone, Debug)]
pub enum Buffer<'a> {
    /// Bytes for the device to read.
    Readable(&'a [u8]),
    /// The length of a buffer for the device to write. It is filled with 0xee before.
    Writable(u32),
}

/// The fields of a descriptor in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A request that the driver has made available.
#[derive(Clone, Debug)]
pub struct SentRequest {
    /// Index of the first descriptor, which is the id in the used ring.
    pub head: u16,
    /// The writable buffers, in order.
    pub writable: Vec<(GuestAddress, u32)>,
}

impl SentRequest {
    /// The contents of all writable buffers, concatenated.
    pub fn response(&self, ram: &TestRam) -> Vec<u8> {
        self.writable.iter().flat_map(|&(addr, len)| ram.read(addr, len as usize)).collect()
    }
}

/// An entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// [`SentRequest::head`].
    pub id: u32,
    /// Number of bytes that the device reports as written.
    pub len: u32,
}

/// The driver's side of one queue. It reuses descriptors in a circle and does not check that they are free: a test must
/// keep fewer in flight than the queue has.
pub struct DriverQueue {
    ram: TestRam,
    line: Arc<Line>,
    size: u16,
    event_idx: bool,
    desc: GuestAddress,
    avail: GuestAddress,
    used: GuestAddress,
    /// The eventfd of the driver's notifications.
    pub notify: EventFd,
    next_desc: u16,
    avail_idx: u16,
    seen: u16,
}

impl DriverQueue {
    /// Empty rings for `size` descriptors. `line` is the device's interrupt line, to wait on.
    pub fn new(ram: &TestRam, line: &Arc<Line>, size: u16, features: u64) -> Self {
        Self::with_notify(ram, line, size, features, EventFd::new(EFD_NONBLOCK).expect("an eventfd for a test"))
    }

    /// Does the same as [`Self::new`], with `notify` for notifications.
    pub fn with_notify(ram: &TestRam, line: &Arc<Line>, size: u16, features: u64, notify: EventFd) -> Self {
        let entries = u64::from(size);
        // A device under attack may have written anywhere before: rings begin as zeros (VIRTIO 1.2, 3.1.1).
        let zeros = |len: u64| {
            let addr = ram.alloc(len);
            ram.write(addr, &vec![0; len as usize]);
            addr
        };
        Self {
            ram: ram.again(),
            line: line.clone(),
            size,
            event_idx: features & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            desc: zeros(16 * entries),
            avail: zeros(6 + 2 * entries),
            used: zeros(6 + 8 * entries),
            notify,
            next_desc: 0,
            avail_idx: 0,
            seen: 0,
        }
    }

    /// Guest addresses of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [self.desc, self.avail, self.used].map(|addr| addr.raw_value())
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The device's side, for an activation without a transport.
    pub fn device_side(&self) -> DeviceQueue {
        let mut queue = Queue::new(self.size).expect("a power of two");
        let split = |addr: GuestAddress| (Some(addr.raw_value() as u32), Some((addr.raw_value() >> 32) as u32));
        let ((low, high), (avail_low, avail_high), (used_low, used_high)) =
            (split(self.desc), split(self.avail), split(self.used));
        queue.set_desc_table_address(low, high);
        queue.set_avail_ring_address(avail_low, avail_high);
        queue.set_used_ring_address(used_low, used_high);
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        DeviceQueue::new(queue, self.notify.try_clone().expect("an eventfd for a test"))
    }

    /// Writes a chain of `buffers`, makes it available and notifies the device.
    pub fn send(&mut self, buffers: &[Buffer<'_>]) -> SentRequest {
        let request = self.add(buffers);
        self.kick();
        request
    }

    /// Writes a chain of `buffers` and makes it available.
    pub fn add(&mut self, buffers: &[Buffer<'_>]) -> SentRequest {
        let (descriptors, writable) = self.describe(buffers);
        let head = self.write_chain(&descriptors);
        self.publish(head);
        SentRequest { head, writable }
    }

    /// Does the same as [`Self::add`], with the descriptors in an indirect table.
    pub fn add_indirect(&mut self, buffers: &[Buffer<'_>]) -> SentRequest {
        let (mut descriptors, writable) = self.describe(buffers);
        let last = descriptors.len() - 1;
        let mut table = Vec::new();
        for (index, descriptor) in descriptors.iter_mut().enumerate() {
            if index < last {
                descriptor.flags |= NEXT;
                descriptor.next = index as u16 + 1;
            }
            table.extend(descriptor.bytes());
        }
        let addr = self.ram.put(&table).raw_value();
        let head = self.write_chain(&[Descriptor { addr, len: table.len() as u32, flags: INDIRECT, next: 0 }]);
        self.publish(head);
        SentRequest { head, writable }
    }

    fn describe(&self, buffers: &[Buffer<'_>]) -> (Vec<Descriptor>, Vec<(GuestAddress, u32)>) {
        let mut writable = Vec::new();
        let descriptors = buffers
            .iter()
            .map(|buffer| match *buffer {
                Buffer::Readable(data) => {
                    Descriptor { addr: self.ram.put(data).raw_value(), len: data.len() as u32, flags: 0, next: 0 }
                }
                Buffer::Writable(len) => {
                    let addr = self.ram.put(&vec![0xee; len as usize]);
                    writable.push((addr, len));
                    Descriptor { addr: addr.raw_value(), len, flags: WRITE, next: 0 }
                }
            })
            .collect();
        (descriptors, writable)
    }

    /// Writes descriptors and links them, but does not make them available. Returns the index of the first.
    pub fn write_chain(&mut self, descriptors: &[Descriptor]) -> u16 {
        let head = self.next_desc;
        for (index, descriptor) in descriptors.iter().enumerate() {
            let at = self.next_desc;
            self.next_desc = (at + 1) % self.size;
            let mut descriptor = *descriptor;
            if index + 1 < descriptors.len() {
                descriptor.flags |= NEXT;
                descriptor.next = self.next_desc;
            }
            self.write_descriptor(at, descriptor);
        }
        head
    }

    /// Writes one descriptor unchanged.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.ram.write(self.desc.unchecked_add(16 * u64::from(index)), &descriptor.bytes());
    }

    /// Makes `head` available, even if it is invalid.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.ram.write(self.avail.unchecked_add(4 + 2 * slot), &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(self.avail_idx);
    }

    /// Writes the index of the available ring, even if it is invalid.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.avail_idx = idx;
        let addr = self.avail.unchecked_add(2);
        self.ram.share().store(idx.to_le(), addr, Ordering::Release).expect("a ring in memory");
    }

    /// Sets the flags of the available ring: 1 asks for no interrupts.
    pub fn set_avail_flags(&self, flags: u16) {
        self.ram.write(self.avail, &flags.to_le_bytes());
    }

    /// Asks for an interrupt when the used index passes `event` (needs `VIRTIO_RING_F_EVENT_IDX`).
    pub fn set_used_event(&self, event: u16) {
        self.ram.write(self.avail.unchecked_add(4 + 2 * u64::from(self.size)), &event.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// Whether the device wants a notification for the entry that was made available last.
    pub fn kick_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.load(self.used.unchecked_add(4 + 8 * u64::from(self.size)));
            event == self.avail_idx.wrapping_sub(1)
        } else {
            self.load(self.used) & 1 == 0
        }
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.notify.write(1).expect("room in an eventfd");
    }

    /// The used ring's index.
    pub fn used_idx(&self) -> u16 {
        self.load(self.used.unchecked_add(2))
    }

    /// Takes the next completion, if there is one.
    pub fn used(&mut self) -> Option<Used> {
        if self.used_idx() == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        let entry = self.ram.read(self.used.unchecked_add(4 + 8 * slot), 8);
        self.seen = self.seen.wrapping_add(1);
        if self.event_idx {
            self.set_used_event(self.seen);
        }
        let field = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        Some(Used { id: field(0), len: field(4) })
    }

    /// Waits for the next completion.
    pub fn wait_used(&mut self) -> Used {
        loop {
            let seen = self.line.count();
            if let Some(used) = self.used() {
                return used;
            }
            self.line.wait_past(seen);
        }
    }

    /// Sends a request and waits for its completion, which must be the next one. Returns it with the contents of the
    /// writable buffers.
    pub fn transact(&mut self, buffers: &[Buffer<'_>]) -> (Used, Vec<u8>) {
        let request = self.send(buffers);
        let used = self.wait_used();
        assert_eq!(used.id, u32::from(request.head));
        (used, request.response(&self.ram))
    }

    fn load(&self, addr: GuestAddress) -> u16 {
        u16::from_le(self.ram.share().load(addr, Ordering::Acquire).expect("a ring in memory"))
    }
}
