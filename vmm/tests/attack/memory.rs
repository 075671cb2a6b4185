//! Attacks on the memory device (VIRTIO 1.2, 5.15) and on the random number device (5.4). The host asks for no memory.

use super::driver::{choose, readable, reg, reset, start_one, status, wait_broken, writable, Device, VERSION_1};
use super::probes::{mem_request, probe};
use super::script::{Script, ARENA, PLUGGABLE, RAM_END};

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u64 = 0;
const NACK: u64 = 1;
const ERROR: u64 = 3;

/// Bytes of a block, and of the region.
const BLOCK: u64 = 2 << 20;
const REGION: u64 = 64 << 20;

/// Adds the cases.
pub fn add(s: &mut Script) {
    blocks(s);
    requests(s);
    random_numbers(s);
}

/// Sends requests and checks their answers.
#[track_caller]
fn answers(s: &mut Script, requests: &[(u16, u64, u16, u64)]) {
    let mut ring = start_one(s, Device::Mem);
    for (kind, address, blocks, answer) in requests {
        let (request, room) = (s.put(&mem_request(*kind, *address, *blocks)), s.alloc(10, 16));
        s.fill(room, 10, 0xee);
        ring.send(s, &[readable(request, 24), writable(room, 10)]);
        ring.wait_len(s, 10);
        s.expect(2, room, *answer);
    }
    probe(s, Device::Mem);
}

fn blocks(s: &mut Script) {
    for (name, source, addresses, count) in [
        (
            "blocks that are not aligned",
            "Cloud Hypervisor #4859; VIRTIO 5.15.6",
            &[PLUGGABLE + 1, PLUGGABLE + 0x1000, PLUGGABLE + BLOCK - 1][..],
            1,
        ),
        (
            "blocks outside the region",
            "Cloud Hypervisor #4859; VIRTIO 5.15.6",
            &[0, ARENA, PLUGGABLE - BLOCK, PLUGGABLE + REGION, 0xd000_0000, 1 << 52],
            1,
        ),
        ("blocks that wrap around the address space", "Cloud Hypervisor #4859", &[u64::MAX - BLOCK + 1, u64::MAX], 2),
        (
            "blocks that end past the region",
            "Cloud Hypervisor #4859",
            &[PLUGGABLE + REGION - BLOCK, PLUGGABLE + BLOCK],
            0xffff,
        ),
        ("no block at all", "VIRTIO 5.15.6", &[PLUGGABLE, PLUGGABLE + REGION], 0),
    ] {
        s.case(name, source);
        let all: Vec<_> = [PLUG, UNPLUG, STATE]
            .iter()
            .flat_map(|kind| addresses.iter().map(move |address| (*kind, *address, count, ERROR)))
            .collect();
        answers(s, &all);
    }
    s.case("more memory than the host asked for", "VIRTIO 5.15.6.1");
    answers(s, &[(PLUG, PLUGGABLE, 1, NACK), (PLUG, PLUGGABLE, 32, NACK)]);
    s.case("blocks are unplugged that were not plugged in", "VIRTIO 5.15.6.2");
    answers(s, &[(UNPLUG, PLUGGABLE, 1, ERROR), (UNPLUG, PLUGGABLE + BLOCK, 5, ERROR), (UNPLUG_ALL, 0, 0, ACK)]);
}

fn requests(s: &mut Script) {
    s.case("types of requests for memory that do not exist", "VIRTIO 5.15.6");
    answers(s, &[(4, PLUGGABLE, 1, ERROR), (0x100, PLUGGABLE, 1, ERROR), (0xffff, PLUGGABLE, 1, ERROR)]);
    s.case("requests that are cut, or without room for the answer", "VIRTIO 5.15.6; Cloud Hypervisor #7803");
    let base = s.base(Device::Mem);
    for (len, room) in [(23, 10), (1, 10), (24, 9), (24, 1)] {
        let mut ring = start_one(s, Device::Mem);
        let (request, answer) = (s.put(&mem_request(STATE, PLUGGABLE, 1)), s.alloc(16, 16));
        ring.send(s, &[readable(request, len), writable(answer, room)]);
        wait_broken(s, base);
        probe(s, Device::Mem);
    }
    s.case("a driver that may touch memory that is not plugged in", "VIRTIO 5.15.3");
    reset(s, base);
    s.store(4, base + reg::STATUS, status::ACKNOWLEDGE);
    s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    choose(s, base, VERSION_1);
    s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    s.expect(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    probe(s, Device::Mem);
}

fn random_numbers(s: &mut Script) {
    s.case("random numbers into a buffer that the device must not write", "VIRTIO 5.4.6.1");
    let base = s.base(Device::Rng);
    let mut ring = start_one(s, Device::Rng);
    ring.send(s, &[readable(ARENA, 16)]);
    wait_broken(s, base);
    probe(s, Device::Rng);
    s.case("a buffer of megabytes for random numbers", "QEMU CVE-2016-5403 (work without bound)");
    let mut ring = start_one(s, Device::Rng);
    ring.send(s, &[writable(RAM_END - (2 << 20), 2 << 20)]);
    ring.wait_len(s, 64 << 10);
    probe(s, Device::Rng);
}
