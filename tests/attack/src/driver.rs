//! A driver whose acts come from bytes: it sends requests in good form, writes any bytes into rings, tables and buffers,
//! accesses any register, stops, starts and pauses its device, and lets the host's side act in between.
//!
//! The device's workers run on the caller's thread (`hutch_devices::worker::inline`), so that an input does the same in
//! every run. As long as the driver has broken no rule, its checks are strict: each request is completed once, with no
//! more bytes than it has room for, and nothing outside of its buffers is written.

use std::collections::HashMap;
use std::sync::Arc;

use hutch_devices::bus::BusDevice;
use hutch_devices::irq::CountingInterrupt;
use hutch_devices::testing::queue::{INDIRECT, NEXT, WRITE};
use hutch_devices::virtio::mmio::registers::{self as reg, status};
use hutch_devices::virtio::mmio::MmioTransport;
use hutch_devices::virtio::{DeviceInterrupt, VirtioDevice};
use hutch_devices::worker::inline;
use hutch_devices::GuestRam;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::script::Script;

/// Two adjacent regions, a hole, and a third region.
const REGIONS: [(GuestAddress, usize); 3] =
    [(GuestAddress(0), 64 << 10), (GuestAddress(64 << 10), 64 << 10), (GuestAddress(1 << 20), 192 << 10)];
/// Bytes for the rings of a queue, a table, an available ring and a used ring for [`QUEUE_SIZE`] descriptors. The first
/// queue has the second such space: at address 0 no ring can be.
const QUEUE_SPACE: u64 = 0x1000;
const AVAIL: u64 = 0x800;
const USED: u64 = 0xa00;
const QUEUE_SIZE: u16 = 64;
/// Indirect tables.
const TABLES: u64 = 0x4000;
/// Buffers, across the border of the first two regions.
const BUFFERS: u64 = 0x8000;
const BUFFERS_END: u64 = 128 << 10;
/// No buffer of a good request is here.
const CANARY: u64 = 0x7000;
const CANARY_BYTES: [u8; 256] = [0xc3; 256];
/// Most acts of one input.
const ACTS: usize = 96;
/// A device that has work this often, without being given any, works for ever.
const STEPS: usize = 4096;

/// A buffer of a request in good form.
pub enum Part {
    /// The device reads these bytes.
    Read(Vec<u8>),
    /// The device may write as many bytes.
    Write(u32),
}

/// The parts of an attack that differ between devices.
pub trait Device {
    /// Builds a request in good form, and the number of its queue.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>);

    /// The host's side acts: a frame arrives, a connection is closed.
    fn host(&mut self, _script: &mut Script<'_>) {}

    /// Called with guest memory and the buffers of a request before the device is notified, and again after it has
    /// worked. A device may have another thread change the buffers in between.
    fn around(&mut self, _ram: &GuestRam, _buffers: &[(u64, u32)], _work: &mut dyn FnMut()) -> bool {
        false
    }
}

/// A driver and its device.
pub struct MockDriver {
    transport: MmioTransport,
    ram: GuestRam,
    queues: Vec<Rings>,
    features: u64,
    /// The driver has broken a rule since the last start.
    broken: bool,
    next_buffer: u64,
    next_table: u64,
    /// Requests that were completed, as long as no rule was broken.
    completed: usize,
}

#[derive(Default)]
struct Rings {
    base: u64,
    size: u16,
    next_desc: u16,
    avail_idx: u16,
    seen: u16,
    /// Requests that the device has: room for its answer, by head.
    sent: HashMap<u16, u32>,
    /// Descriptors in use.
    in_use: u16,
    lens: HashMap<u16, u16>,
}

/// Memory for a driver whose device has no use for pluggable memory.
pub fn memory() -> GuestRam {
    GuestRam::new(GuestMemoryMmap::from_ranges(&REGIONS).expect("half a MiB of memory"))
}

/// Runs a script against a device with this memory. Returns the number of requests in good form that were completed.
///
/// # Panics
/// The device broke its contract.
pub fn run(device: Box<dyn VirtioDevice>, ram: GuestRam, kind: &mut dyn Device, script: &mut Script<'_>) -> usize {
    inline::enter();
    let mut driver = MockDriver::new(device, ram);
    driver.start(u64::from(script.u32()));
    for _ in 0..ACTS {
        if script.is_done() {
            break;
        }
        driver.act(kind, script);
    }
    driver.settle();
    // Whatever has happened, a reset helps, and a good driver can start the device again.
    driver.start(u64::MAX);
    driver.settle();
    assert!(driver.status() & status::DRIVER_OK != 0, "a good driver was refused after the attack");
    assert!(driver.status() & status::NEEDS_RESET == 0, "the device asks a good driver for a reset");
    driver.transport.device_shutdown();
    driver.completed
}

impl MockDriver {
    fn new(device: Box<dyn VirtioDevice>, ram: GuestRam) -> Self {
        let interrupt = Arc::new(DeviceInterrupt::new(Box::new(Line(CountingInterrupt::default()))));
        let queues: Vec<Rings> = (0..)
            .zip(device.queue_max_sizes())
            .map(|(index, max)| Rings {
                base: (index + 1) * QUEUE_SPACE,
                size: QUEUE_SIZE.min(*max),
                ..Rings::default()
            })
            .collect();
        let notifiers = queues.iter().map(|_| EventFd::new(EFD_NONBLOCK).expect("an eventfd")).collect();
        let transport = MmioTransport::new(ram.clone(), device, interrupt, notifiers);
        let (features, broken) = (0, false);
        Self { transport, ram, queues, features, broken, next_buffer: BUFFERS, next_table: TABLES, completed: 0 }
    }

    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    fn status(&self) -> u32 {
        self.read(reg::STATUS)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        // A script may choose an address outside of memory.
        drop(self.ram.write_slice(bytes, GuestAddress(at)));
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).expect("the driver's own memory");
        bytes
    }

    /// Resets the device and starts it by the rules, with those of `features` that it offers.
    fn start(&mut self, features: u64) {
        self.write(reg::STATUS, 0);
        assert_eq!(self.status(), 0, "a reset is done when its register has been written");
        self.broken = false;
        let half = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES)) << (32 * select)
        };
        let offered = half(0) | half(1);
        self.write(reg::STATUS, status::ACKNOWLEDGE);
        self.write(reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        // A device may refuse some of its features, for they need others: then all.
        for wanted in [features & offered, offered] {
            self.features = wanted | 1 << VIRTIO_F_VERSION_1;
            for (select, value) in [(0, self.features as u32), (1, (self.features >> 32) as u32)] {
                self.write(reg::DRIVER_FEATURES_SEL, select);
                self.write(reg::DRIVER_FEATURES, value);
            }
            self.write(reg::STATUS, ready);
            if self.status() == ready {
                break;
            }
        }
        assert_eq!(self.status(), ready, "the device refuses all that it offers");
        for index in 0..self.queues.len() {
            let Rings { base, size, .. } = self.queues[index];
            self.put(base, &[0; QUEUE_SPACE as usize]);
            self.queues[index] = Rings { base, size, ..Rings::default() };
            self.write(reg::QUEUE_SEL, index as u32);
            self.write(reg::QUEUE_NUM, u32::from(size));
            for (register, at) in
                [(reg::QUEUE_DESC_LOW, 0), (reg::QUEUE_DRIVER_LOW, AVAIL), (reg::QUEUE_DEVICE_LOW, USED)]
            {
                self.write(register, (base + at) as u32);
                self.write(register + 4, 0);
            }
            self.write(reg::QUEUE_READY, 1);
        }
        (self.next_buffer, self.next_table) = (BUFFERS, TABLES);
        self.put(CANARY, &CANARY_BYTES);
        self.write(reg::STATUS, ready | status::DRIVER_OK);
    }

    fn act(&mut self, kind: &mut dyn Device, script: &mut Script<'_>) {
        match script.u8() % 16 {
            0..=5 => self.request(kind, script),
            6 | 7 => kind.host(script),
            8 => self.settle(),
            9 => self.corrupt(script),
            10 => self.access(script),
            11 => {
                if self.transport.device_pause().is_ok() {
                    kind.host(script);
                }
                self.transport.device_resume();
            }
            12 => self.start(script.u64()),
            13 => self.write(reg::QUEUE_NOTIFY, u32::from(script.u8())),
            14 => self.publish(script),
            _ => self.describe(script),
        }
    }

    /// Sends a request in good form, with its descriptors in the queue's table or in one of their own.
    fn request(&mut self, kind: &mut dyn Device, script: &mut Script<'_>) {
        let (queue, parts) = kind.request(script);
        let how = script.u8();
        let indirect = how & 1 != 0 && self.features & 1 << 28 != 0;
        let Some(rings) = self.queues.get(usize::from(queue)) else { return };
        let needed = if indirect { 1 } else { parts.len() as u16 };
        if parts.is_empty() || parts.len() > 32 || rings.in_use + needed > rings.size {
            return;
        }
        let mut descriptors = Vec::new();
        let mut buffers = Vec::new();
        for part in &parts {
            let (len, flags) = match part {
                Part::Read(bytes) => (bytes.len() as u32, 0),
                Part::Write(len) => (*len, WRITE),
            };
            let Some(addr) = self.allocate(len) else { return };
            if let Part::Read(bytes) = part {
                self.put(addr, bytes);
            }
            descriptors.push((addr, len, flags));
            buffers.push((addr, len));
        }
        let room = descriptors.iter().filter(|(_, _, flags)| flags & WRITE != 0).map(|(_, len, _)| len).sum();
        let head = self.queues[usize::from(queue)].next_desc;
        if indirect {
            let table = self.next_table;
            self.next_table = if table + 0x200 >= CANARY - 0x200 { TABLES } else { table + 0x200 };
            // Tables of requests that wait may be used again, too.
            let wait = self.queues.iter().any(|rings| !rings.sent.is_empty());
            self.broken |= self.next_table == TABLES && wait;
            self.write_table(table, 0, u16::MAX, &descriptors);
            self.write_table(
                self.queues[usize::from(queue)].base,
                head,
                self.queues[usize::from(queue)].size,
                &[(table, 16 * descriptors.len() as u32, INDIRECT)],
            );
        } else {
            let (base, size) = (self.queues[usize::from(queue)].base, self.queues[usize::from(queue)].size);
            self.write_table(base, head, size, &descriptors);
        }
        let rings = &mut self.queues[usize::from(queue)];
        rings.next_desc = (head + needed) % rings.size;
        rings.in_use += needed;
        rings.sent.insert(head, room);
        rings.lens.insert(head, needed);
        self.make_available(usize::from(queue), head);
        self.write(reg::QUEUE_NOTIFY, u32::from(queue));
        if how & 2 == 0 {
            let ram = self.ram.clone();
            self.broken |= kind.around(&ram, &buffers, &mut || {
                run_steps();
            });
            self.settle();
        }
    }

    /// Guest memory for a buffer; `None` if there is none of that length.
    fn allocate(&mut self, len: u32) -> Option<u64> {
        let len = u64::from(len).next_multiple_of(16);
        if len > BUFFERS_END - BUFFERS {
            return None;
        }
        if self.next_buffer + len > BUFFERS_END {
            // Buffers of requests that wait may be used again, as a careless driver does.
            self.broken |= self.queues.iter().any(|rings| !rings.sent.is_empty());
            self.next_buffer = BUFFERS;
        }
        let addr = self.next_buffer;
        self.next_buffer += len;
        Some(addr)
    }

    fn write_table(&self, table: u64, first: u16, size: u16, descriptors: &[(u64, u32, u16)]) {
        let mut at = first;
        for (index, (addr, len, flags)) in descriptors.iter().enumerate() {
            let next = (at + 1) % size;
            let flags = if index + 1 < descriptors.len() { flags | NEXT } else { *flags };
            self.put(table + 16 * u64::from(at), &descriptor(*addr, *len, flags, next));
            at = next;
        }
    }

    fn make_available(&mut self, queue: usize, head: u16) {
        let rings = &mut self.queues[queue];
        let slot = u64::from(rings.avail_idx % rings.size);
        rings.avail_idx = rings.avail_idx.wrapping_add(1);
        let (base, idx) = (rings.base, rings.avail_idx);
        self.put(base + AVAIL + 4 + 2 * slot, &head.to_le_bytes());
        self.put(base + AVAIL + 2, &idx.to_le_bytes());
    }

    /// Lets the device work until it has nothing to do, and checks what it has completed.
    fn settle(&mut self) {
        let steps = run_steps();
        assert!(steps < STEPS, "the device goes on working without being given work");
        if self.broken {
            return;
        }
        assert_eq!(self.get::<256>(CANARY), CANARY_BYTES, "the device wrote outside of its buffers");
        for index in 0..self.queues.len() {
            while let Some((id, len)) = self.completion(index) {
                let rings = &mut self.queues[index];
                let head = u16::try_from(id).expect("the head of a request");
                let room = rings.sent.remove(&head).expect("the device completes a request once");
                rings.in_use -= rings.lens.remove(&head).unwrap_or(0);
                self.completed += 1;
                assert!(len <= room, "{len} bytes reported in a buffer of {room}");
            }
        }
    }

    fn completion(&mut self, queue: usize) -> Option<(u32, u32)> {
        let Rings { base, size, seen, .. } = self.queues[queue];
        let idx = u16::from_le_bytes(self.get(base + USED + 2));
        if idx == seen {
            return None;
        }
        self.queues[queue].seen = seen.wrapping_add(1);
        let entry = base + USED + 4 + 8 * u64::from(seen % size);
        let done = (u32::from_le_bytes(self.get(entry)), u32::from_le_bytes(self.get(entry + 4)));
        // By event index: an interrupt for the next one.
        self.put(base + AVAIL + 4 + 2 * u64::from(size), &self.queues[queue].seen.to_le_bytes());
        Some(done)
    }

    /// Writes bytes anywhere into the rings, tables and buffers.
    fn corrupt(&mut self, script: &mut Script<'_>) {
        self.broken = true;
        let at = match script.u8() {
            area @ ..=0x7f => QUEUE_SPACE * u64::from(area % 3 + 1) + u64::from(script.u16() % QUEUE_SPACE as u16),
            0x80..=0xdf => u64::from(script.u32() % BUFFERS_END as u32),
            _ => script.u64(),
        };
        let len = usize::from(script.u8() % 64);
        self.put(at, script.bytes(len));
    }

    /// Accesses any register in any width.
    fn access(&mut self, script: &mut Script<'_>) {
        let (width, offset) = (script.u8(), u64::from(script.u16() % 0x220));
        let mut data = [0; 16];
        let data = &mut data[..usize::from(width & 15)];
        if width & 0x80 == 0 {
            self.transport.read(offset, data);
        } else {
            self.broken = true;
            let bytes = script.bytes(data.len());
            data[..bytes.len()].copy_from_slice(bytes);
            self.transport.write(offset, data);
        }
    }

    /// Makes any descriptor available, or moves the index.
    fn publish(&mut self, script: &mut Script<'_>) {
        self.broken = true;
        let queue = usize::from(script.u8()) % self.queues.len();
        let (head, step) = (script.u16() % (2 * QUEUE_SIZE), script.u8());
        self.make_available(queue, head);
        if step > 0xf0 {
            let idx = script.u16();
            self.queues[queue].avail_idx = idx;
            self.put(self.queues[queue].base + AVAIL + 2, &idx.to_le_bytes());
        }
        self.write(reg::QUEUE_NOTIFY, queue as u32);
    }

    /// Writes one descriptor with any fields.
    fn describe(&mut self, script: &mut Script<'_>) {
        self.broken = true;
        let base = self.queues[usize::from(script.u8()) % self.queues.len()].base;
        let index = script.u8() % QUEUE_SIZE as u8;
        let addr = match script.u8() {
            0..=0x7f => BUFFERS + u64::from(script.u16()),
            0x80..=0xdf => u64::from(script.u32() % (2 << 20)),
            _ => script.u64(),
        };
        let len = if script.u8() < 0xe0 { u32::from(script.u16()) } else { script.u32() };
        let (flags, next) = (script.u8() % 8, script.u8());
        self.put(base + 16 * u64::from(index), &descriptor(addr, len, u16::from(flags), u16::from(next)));
    }
}

/// The bytes of a descriptor (VIRTIO 1.2, 2.7.5).
fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// Lets the device work until it has nothing to do. Returns the number of steps, at most [`STEPS`].
fn run_steps() -> usize {
    (0..STEPS).find(|_| !inline::run_pending()).unwrap_or(STEPS)
}

/// An interrupt line that only counts.
struct Line(CountingInterrupt);

impl hutch_devices::irq::Interrupt for Line {
    fn trigger(&self) -> std::io::Result<()> {
        self.0.trigger()
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
