//! A driver as a script: it sets devices and queues up correctly where a case does not want it otherwise.

use super::script::Script;

/// Offsets of registers (VIRTIO 1.2, 4.2.2).
pub mod reg {
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const DESC: u64 = 0x80;
    pub const AVAIL: u64 = 0x90;
    pub const USED: u64 = 0xa0;
    pub const GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}

/// Device status.
pub mod status {
    pub const ACKNOWLEDGE: u64 = 1;
    pub const DRIVER: u64 = 2;
    pub const DRIVER_OK: u64 = 4;
    pub const FEATURES_OK: u64 = 8;
    pub const NEEDS_RESET: u64 = 64;
    pub const FAILED: u64 = 128;
    /// All of a driver that runs.
    pub const LIVE: u64 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

pub const VERSION_1: u64 = 1 << 32;
pub const INDIRECT_DESC: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// The devices, in the order of the machine's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Vsock,
    Fs,
    Disk,
    ReadOnlyDisk,
    EmptyDisk,
    Rng,
    Mem,
    /// Not in every machine: hosts may have no tap.
    Net,
}

impl Device {
    /// Address of the device's window. The network device comes before the random numbers if there is one.
    pub fn base(self, with_net: bool) -> u64 {
        let index = match self {
            Self::Vsock => 0,
            Self::Fs => 1,
            Self::Disk => 2,
            Self::ReadOnlyDisk => 3,
            Self::EmptyDisk => 4,
            Self::Net => 5,
            Self::Rng => 5 + u64::from(with_net),
            Self::Mem => 6 + u64::from(with_net),
        };
        0xd000_0000 + index * 0x1000
    }

    /// Number of its queues.
    pub fn queues(self) -> u32 {
        match self {
            Self::Vsock => 3,
            Self::Fs | Self::Net => 2,
            _ => 1,
        }
    }

    /// Features that its driver has to choose.
    pub fn features(self) -> u64 {
        VERSION_1 | if self == Self::Mem { 2 } else { 0 }
    }
}

/// A buffer of a chain.
#[derive(Clone, Copy)]
pub struct Buf {
    pub address: u64,
    pub len: u32,
    pub write: bool,
}

/// A buffer that the device reads.
pub fn readable(address: u64, len: u32) -> Buf {
    Buf { address, len, write: false }
}

/// A buffer that the device writes.
pub fn writable(address: u64, len: u32) -> Buf {
    Buf { address, len, write: true }
}

/// The bytes of a descriptor.
pub fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// The driver's side of a queue.
#[derive(Clone, Debug)]
pub struct Ring {
    pub base: u64,
    pub index: u32,
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    next_desc: u16,
    avail_idx: u16,
}

impl Ring {
    /// Zeroed rings in the arena, unknown to the device.
    pub fn new(script: &mut Script, base: u64, index: u32, size: u16) -> Self {
        let entries = u64::from(size);
        let desc = script.alloc(16 * entries, 16);
        let avail = script.alloc(6 + 2 * entries, 16);
        let used = script.alloc(6 + 8 * entries, 16);
        script.fill(desc, u32::try_from(used + 6 + 8 * entries - desc).expect("small"), 0);
        Self { base, index, size, desc, avail, used, next_desc: 0, avail_idx: 0 }
    }

    /// Writes the queue's registers.
    pub fn register(&self, script: &mut Script) {
        set_up(script, self.base, self.index, self.size.into(), [self.desc, self.avail, self.used]);
    }

    /// Writes one descriptor.
    pub fn describe(&self, script: &mut Script, index: u16, bytes: [u8; 16]) {
        script.copy(self.desc + 16 * u64::from(index), &bytes);
    }

    /// Writes a chain and returns its first descriptor.
    pub fn chain(&mut self, script: &mut Script, buffers: &[Buf]) -> u16 {
        let head = self.next_desc;
        for (at, buffer) in buffers.iter().enumerate() {
            let index = self.next_desc;
            self.next_desc = (index + 1) % self.size;
            let last = at + 1 == buffers.len();
            let flags = if last { 0 } else { NEXT } | if buffer.write { WRITE } else { 0 };
            self.describe(script, index, descriptor(buffer.address, buffer.len, flags, self.next_desc));
        }
        head
    }

    /// Makes a head available, even if it is invalid.
    pub fn publish(&mut self, script: &mut Script, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        script.store(2, self.avail + 4 + 2 * slot, head.into());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        script.store(2, self.avail + 2, self.avail_idx.into());
    }

    /// Notifies the device.
    pub fn kick(&self, script: &mut Script) {
        script.store(4, self.base + reg::QUEUE_NOTIFY, self.index.into());
    }

    /// Sends a chain.
    pub fn send(&mut self, script: &mut Script, buffers: &[Buf]) {
        let head = self.chain(script, buffers);
        self.publish(script, head);
        self.kick(script);
    }

    /// Sends raw descriptors, the first one as head.
    pub fn send_raw(&mut self, script: &mut Script, descriptors: &[[u8; 16]]) {
        let head = self.next_desc;
        for bytes in descriptors {
            self.describe(script, self.next_desc, *bytes);
            self.next_desc = (self.next_desc + 1) % self.size;
        }
        self.publish(script, head);
        self.kick(script);
    }

    /// Waits until all requests are back.
    pub fn wait_all(&self, script: &mut Script) {
        script.wait(2, self.used + 2, 0xffff, self.avail_idx.into());
    }

    /// Waits until all requests are back, and checks the length of the last one.
    #[track_caller]
    pub fn wait_len(&self, script: &mut Script, len: u32) {
        self.wait_all(script);
        let slot = u64::from(self.avail_idx.wrapping_sub(1) % self.size);
        script.expect(4, self.used + 4 + 8 * slot + 4, len.into());
    }
}

/// Writes a queue's registers and QueueReady.
pub fn set_up(script: &mut Script, base: u64, index: u32, size: u64, [desc, avail, used]: [u64; 3]) {
    script.store(4, base + reg::QUEUE_SEL, index.into());
    script.store(4, base + reg::QUEUE_NUM, size);
    for (register, address) in [(reg::DESC, desc), (reg::AVAIL, avail), (reg::USED, used)] {
        script.store(4, base + register, address & 0xffff_ffff);
        script.store(4, base + register + 4, address >> 32);
    }
    script.store(4, base + reg::QUEUE_READY, 1);
}

/// Resets a device and waits until that is done.
pub fn reset(script: &mut Script, base: u64) {
    script.store(4, base + reg::STATUS, 0);
    script.wait(4, base + reg::STATUS, 0xff, 0);
}

/// Writes features.
pub fn choose(script: &mut Script, base: u64, features: u64) {
    for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        script.store(4, base + reg::DRIVER_FEATURES_SEL, select);
        script.store(4, base + reg::DRIVER_FEATURES, half);
    }
}

/// Resets a device and brings it up to FEATURES_OK.
#[track_caller]
pub fn negotiate(script: &mut Script, base: u64, features: u64) {
    reset(script, base);
    script.store(4, base + reg::STATUS, status::ACKNOWLEDGE);
    script.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    choose(script, base, features);
    let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    script.store(4, base + reg::STATUS, agreed);
    script.expect(4, base + reg::STATUS, agreed);
}

/// Brings a device up with queues of `size` entries.
#[track_caller]
pub fn start_with(script: &mut Script, device: Device, features: u64, size: u16) -> Vec<Ring> {
    let base = script.base(device);
    negotiate(script, base, features);
    let rings: Vec<Ring> = (0..device.queues()).map(|index| Ring::new(script, base, index, size)).collect();
    for ring in &rings {
        ring.register(script);
        script.expect(4, base + reg::QUEUE_READY, 1);
    }
    script.store(4, base + reg::STATUS, status::LIVE);
    script.expect(4, base + reg::STATUS, status::LIVE);
    rings
}

/// Waits until the device asks for a reset.
pub fn wait_broken(script: &mut Script, base: u64) {
    script.wait(4, base + reg::STATUS, status::NEEDS_RESET, status::NEEDS_RESET);
}

/// Brings a device up with queues of 16 entries and without any further features.
#[track_caller]
pub fn start(script: &mut Script, device: Device) -> Vec<Ring> {
    start_with(script, device, device.features(), 16)
}

/// Brings a device with one queue up.
#[track_caller]
pub fn start_one(script: &mut Script, device: Device) -> Ring {
    start(script, device).remove(0)
}
