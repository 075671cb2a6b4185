//! Attacks on rings, descriptors and buffers. The random number device stands for the devices that walk chains alike.

use super::driver::{descriptor, readable, start_one, start_with, wait_broken, writable};
use super::driver::{Device, Ring, EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, VERSION_1, WRITE};
use super::probes::probe;
use super::script::{Script, ARENA, HOLE, PLUGGABLE, RAM_END};

/// Adds the cases.
pub fn add(s: &mut Script) {
    chains(s);
    buffers(s);
    indirect(s);
    indices(s);
    floods(s);
}

/// A chain of raw descriptors that breaks each of `devices`, in the queue that takes requests.
#[track_caller]
fn breaks(s: &mut Script, devices: &[Device], features: u64, descriptors: &[[u8; 16]]) {
    for device in devices {
        let mut rings = start_with(s, *device, device.features() | features, 16);
        let queue = if matches!(device, Device::Vsock | Device::Fs | Device::Net) { 1 } else { 0 };
        rings[queue].send_raw(s, descriptors);
        let base = s.base(*device);
        wait_broken(s, base);
        probe(s, *device);
    }
}

/// Devices whose queues are served by different code.
const ALL: [Device; 5] = [Device::Rng, Device::Disk, Device::Vsock, Device::Fs, Device::Mem];

fn chains(s: &mut Script) {
    s.case("a descriptor that is its own successor", "Firecracker #3149; VIRTIO 2.7.5.2");
    breaks(s, &ALL, 0, &[descriptor(ARENA, 16, NEXT, 0)]);
    s.case("a loop of two descriptors", "Firecracker #3149; VIRTIO 2.7.5.2");
    breaks(s, &ALL, 0, &[descriptor(ARENA, 16, NEXT, 1), descriptor(ARENA, 16, NEXT, 0)]);
    s.case("a successor outside the table", "Cloud Hypervisor #8401; Firecracker #5485");
    for next in [16, 0x7fff, 0xffff] {
        breaks(s, &ALL, 0, &[descriptor(ARENA, 16, NEXT, next)]);
    }
    s.case("a buffer to read after one to write", "VIRTIO 2.7.4.2");
    let mixed = [descriptor(ARENA, 16, NEXT | WRITE, 1), descriptor(ARENA, 16, 0, 0)];
    breaks(s, &ALL, 0, &mixed);
    s.case("flags of descriptors that do not exist", "VIRTIO 2.7.5");
    let mut ring = start_one(s, Device::Rng);
    ring.send_raw(s, &[descriptor(ARENA + 0x8000, 16, 0xfff8 | WRITE, 0xffff)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
}

fn buffers(s: &mut Script) {
    for (name, source, address, len) in [
        ("a buffer of 4 GiB", "QEMU CVE-2016-7422", ARENA, u32::MAX),
        ("a buffer that ends one byte past the memory", "Firecracker CVE-2019-18960", RAM_END - 63, 64),
        ("a buffer that starts at the end of memory", "Firecracker #1296", RAM_END, 1),
        ("a buffer where there is nothing", "Firecracker CVE-2019-18960", HOLE, 64),
        ("a buffer that wraps around the address space", "openvmm #4047", u64::MAX - 0xff, 512),
        ("a buffer in a device's own registers", "QEMU CVE-2021-3748, CVE-2024-3446", 0xd000_0000, 64),
        ("a buffer in the interrupt controllers", "QEMU CVE-2021-3748, CVE-2024-3446", 0xfee0_0000, 64),
        ("a buffer in memory that is not plugged in", "Firecracker #5485", PLUGGABLE + 0x1000, 64),
        ("a buffer that ends past the pluggable memory", "Firecracker CVE-2019-18960", PLUGGABLE + (64 << 20) - 32, 64),
    ] {
        s.case(name, source);
        for flags in [WRITE, 0] {
            breaks(s, &ALL, 0, &[descriptor(address, len, flags, 0)]);
        }
    }
    s.case("a buffer without a byte", "QEMU CVE-2016-6490 (endless loop)");
    breaks(s, &[Device::Rng, Device::Disk, Device::Mem], 0, &[descriptor(ARENA, 0, WRITE, 0)]);
    s.case("a chain of buffers without a byte, at any address", "QEMU CVE-2016-6490 (endless loop)");
    let empty: Vec<_> = (1..16).map(|next| descriptor(HOLE, 0, NEXT | WRITE, next)).collect();
    let empty = [&empty[..], &[descriptor(HOLE, 0, WRITE, 0)]].concat();
    breaks(s, &[Device::Rng, Device::Disk, Device::Mem], 0, &empty);
}

/// Fills an indirect table of `count` writable buffers of `len` bytes each, all at the same address.
fn table(s: &mut Script, count: u64, len: u32) -> u64 {
    let (table, buffer) = (s.alloc(count * 16, 16), s.alloc(0x1000, 16));
    let bytes: Vec<u8> = (0..count)
        .flat_map(|index| {
            let flags = if index + 1 < count { NEXT | WRITE } else { WRITE };
            descriptor(buffer, len, flags, index as u16 + 1)
        })
        .collect();
    s.copy(table, &bytes);
    table
}

/// An indirect table that breaks the random number device and the share.
#[track_caller]
fn indirect_breaks(s: &mut Script, address: u64, len: u32, flags: u16) {
    for device in [Device::Rng, Device::Fs] {
        let mut rings = start_with(s, device, VERSION_1 | INDIRECT_DESC, 16);
        rings.last_mut().expect("a queue").send_raw(s, &[descriptor(address, len, INDIRECT | flags, 0)]);
        let base = s.base(device);
        wait_broken(s, base);
        probe(s, device);
    }
}

fn indirect(s: &mut Script) {
    // The tables lie above the rings, which a case allocates from the arena's beginning.
    const TABLE: u64 = ARENA + (1 << 20);
    s.case("an indirect table in an indirect table", "Firecracker #5485; VIRTIO 2.7.5.3.1");
    s.copy(TABLE, &descriptor(TABLE + 16, 16, INDIRECT, 0));
    s.copy(TABLE + 16, &descriptor(ARENA, 16, WRITE, 0));
    indirect_breaks(s, TABLE, 32, 0);
    s.case("an indirect table that contains itself", "VIRTIO 2.7.5.3.1 (endless recursion)");
    s.copy(TABLE, &descriptor(TABLE, 16, INDIRECT, 0));
    indirect_breaks(s, TABLE, 16, 0);
    s.case("an indirect table with a loop", "Firecracker #3149");
    s.copy(TABLE, &[descriptor(ARENA, 16, NEXT | WRITE, 1), descriptor(ARENA, 16, NEXT | WRITE, 0)].concat());
    indirect_breaks(s, TABLE, 32, 0);
    s.case("an indirect table of odd length", "VIRTIO 2.7.5.3.1");
    for len in [1, 15, 17, 31, 0xffff_ffff] {
        indirect_breaks(s, TABLE, len, 0);
    }
    s.case("an indirect table without a descriptor", "QEMU CVE-2011-2212");
    indirect_breaks(s, TABLE, 0, 0);
    s.case("an indirect table of 65536 descriptors", "QEMU CVE-2011-2212; VIRTIO 2.7.5.3.1");
    indirect_breaks(s, TABLE, 1 << 20, 0);
    s.case("an indirect table of more descriptors than a system call takes", "QEMU CVE-2011-2212");
    let mut ring = start_with(s, Device::Rng, VERSION_1 | INDIRECT_DESC, 16).remove(0);
    let long = table(s, 1025, 1);
    ring.send_raw(s, &[descriptor(long, 1025 * 16, INDIRECT, 0)]);
    let base = s.base(Device::Rng);
    wait_broken(s, base);
    probe(s, Device::Rng);
    s.case("an indirect table of buffers of more than 4 GiB together", "VIRTIO 2.7.5.2; Firecracker #5762");
    let mut ring = start_with(s, Device::Rng, VERSION_1 | INDIRECT_DESC, 16).remove(0);
    let heavy = s.alloc(1024 * 16, 16);
    let bytes: Vec<u8> = (0..1024_u16)
        .flat_map(|at| descriptor(0, 5 << 20, if at < 1023 { NEXT | WRITE } else { WRITE }, at + 1))
        .collect();
    s.copy(heavy, &bytes);
    ring.send_raw(s, &[descriptor(heavy, 1024 * 16, INDIRECT, 0)]);
    wait_broken(s, base);
    probe(s, Device::Rng);
    for (name, source, address) in [
        ("an indirect table where there is nothing", "Firecracker CVE-2019-18960", HOLE),
        ("an indirect table that ends past the memory", "Firecracker CVE-2019-18960", RAM_END - 8),
        ("an indirect table in a device's registers", "QEMU CVE-2024-3446", 0xd000_0000),
        ("an indirect table in memory that is not plugged in", "VIRTIO 5.15.3", PLUGGABLE),
        ("an indirect table that wraps around the address space", "openvmm #4047", u64::MAX - 15),
    ] {
        s.case(name, source);
        indirect_breaks(s, address, 32, 0);
    }
    s.case("an indirect table with a successor", "VIRTIO 2.7.5.3.1");
    let mut ring = start_with(s, Device::Rng, VERSION_1 | INDIRECT_DESC, 16).remove(0);
    let good = table(s, 2, 8);
    // The successor is ignored.
    ring.send_raw(s, &[descriptor(good, 32, INDIRECT | NEXT, 0)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
    s.case("an indirect table without the feature", "VIRTIO 2.7.5.3.1");
    let mut ring = start_one(s, Device::Rng);
    let good = table(s, 2, 8);
    ring.send_raw(s, &[descriptor(good, 32, INDIRECT, 0)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
}

fn indices(s: &mut Script) {
    s.case("a head outside the table", "Cloud Hypervisor #7802; VIRTIO 2.7.6");
    for device in ALL {
        for head in [16, 0x7fff, 0xffff] {
            let mut rings = super::driver::start(s, device);
            let queue = if matches!(device, Device::Vsock | Device::Fs) { 1 } else { 0 };
            rings[queue].publish(s, head);
            rings[queue].kick(s);
            let base = s.base(device);
            wait_broken(s, base);
            probe(s, device);
        }
    }
    s.case("the available index jumps ahead by more than the queue", "Firecracker #3149, rust-vmm vm-virtio #196");
    for device in ALL {
        let base = s.base(device);
        for index in [17, 0x8000, 0xffff] {
            let rings = super::driver::start(s, device);
            for ring in &rings[..if device == Device::Vsock { 2 } else { rings.len() }] {
                s.store(2, ring.avail + 2, index);
                ring.kick(s);
            }
            wait_broken(s, base);
            probe(s, device);
        }
    }
    s.case("the available index goes backwards", "Firecracker #3149; VIRTIO 2.7.13.3.1");
    let base = s.base(Device::Rng);
    let mut ring = start_one(s, Device::Rng);
    let buffer = s.alloc(16, 16);
    ring.send(s, &[writable(buffer, 16)]);
    ring.wait_len(s, 16);
    s.store(2, ring.avail + 2, 0);
    ring.kick(s);
    wait_broken(s, base);
    probe(s, Device::Rng);
    s.case("the same head again and again", "Firecracker #3149");
    let mut ring = start_one(s, Device::Rng);
    let buffer = s.alloc(16, 16);
    let head = ring.chain(s, &[writable(buffer, 16)]);
    for _ in 0..16 {
        ring.publish(s, head);
    }
    ring.kick(s);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
    s.case("the used index is changed by the driver", "VIRTIO 2.7.8");
    let mut ring = start_one(s, Device::Rng);
    let buffer = s.alloc(16, 16);
    s.store(2, ring.used + 2, 0x1234);
    s.store(2, ring.used, 0xffff);
    ring.send(s, &[writable(buffer, 16)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
    s.case("interrupt suppression of any value", "VIRTIO 2.7.7, 2.7.10");
    let mut ring = start_with(s, Device::Rng, VERSION_1 | EVENT_IDX, 16).remove(0);
    let buffer = s.alloc(16, 16);
    for value in [0xffff, 0x8000, 17, 1] {
        s.store(2, ring.avail, value);
        s.store(2, ring.avail + 4 + 32, value);
        s.store(2, ring.used + 4 + 128, value);
        ring.send(s, &[writable(buffer, 16)]);
        ring.wait_len(s, 16);
    }
    probe(s, Device::Rng);
}

fn floods(s: &mut Script) {
    s.case("requests without waiting for their completion", "QEMU CVE-2016-5403 (memory without bound)");
    // Sixteen requests a round, all with the same buffer; the driver never reads the used ring before the next round.
    let full = |s: &mut Script, ring: &Ring, rounds: u32| {
        s.repeat(rounds, |s| {
            s.add(2, ring.avail + 2, 16);
            ring.kick(s);
            s.load(2, ring.avail + 2);
        });
    };
    let base = s.base(Device::Rng);
    let ring = start_one(s, Device::Rng);
    let buffer = s.alloc(16, 16);
    for index in 0..16 {
        ring.describe(s, index, descriptor(buffer, 16, WRITE, 0));
        s.store(2, ring.avail + 4 + 2 * u64::from(index), index.into());
    }
    full(s, &ring, 1);
    s.wait(2, ring.used + 2, 0xffff, 16);
    // Faster than the device takes them, which is a jump of the index.
    s.repeat(2000, |s| {
        s.add(2, ring.avail + 2, 16);
        ring.kick(s);
    });
    wait_broken(s, base);
    probe(s, Device::Rng);
    s.case("requests after the device has broken", "Cloud Hypervisor #8401 (a stalled queue)");
    let mut ring = start_one(s, Device::Rng);
    ring.publish(s, 0xffff);
    ring.kick(s);
    wait_broken(s, base);
    s.repeat(500, |s| ring.kick(s));
    ring.send(s, &[writable(buffer, 16)]);
    s.load(2, ring.used + 2);
    s.check(0xffff, 0);
    probe(s, Device::Rng);
    s.case("a reset while requests are in flight", "Cloud Hypervisor CVE-2026-45782 (use after free)");
    for device in [Device::Disk, Device::Rng] {
        let mut ring = start_one(s, device);
        let (header, data) = (s.put(&super::probes::disk_header(0, 0)), s.alloc(1 << 20, 4096));
        for _ in 0..4 {
            let buffers = [readable(header, 16), writable(data, 1 << 20), writable(data + (1 << 20) - 16, 1)];
            let head = ring.chain(s, if device == Device::Disk { &buffers } else { &buffers[1..2] });
            ring.publish(s, head);
        }
        ring.kick(s);
        probe(s, device);
    }
    s.case("a queue without bounds on its descriptors: all of them in one chain", "Firecracker #5762");
    let mut ring = start_one(s, Device::Rng);
    let buffer = s.alloc(16, 16);
    ring.send(s, &[writable(buffer, 1); 16]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
}
