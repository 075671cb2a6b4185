//! Attacks on the network device (VIRTIO 1.2, 5.1). The host's interface is down: what reaches it is lost.

use super::driver::{choose, readable, reg, reset, start, start_with, status, wait_broken, writable};
use super::driver::{Device, VERSION_1};
use super::probes::probe;
use super::script::{Script, ARENA, RAM_END};

const RX: usize = 0;
const TX: usize = 1;

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;

/// `struct virtio_net_hdr`: flags, segmentation, and its four lengths and offsets.
fn header(flags: u8, gso: u8, [hdr_len, gso_size, csum_start, csum_offset]: [u16; 4]) -> Vec<u8> {
    let mut bytes = vec![flags, gso];
    [hdr_len, gso_size, csum_start, csum_offset, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

/// Sends frames, which come back as sent or dropped.
#[track_caller]
fn taken(s: &mut Script, features: u64, frames: &[(Vec<u8>, u32)]) {
    let mut rings = start_with(s, Device::Net, VERSION_1 | features, 16);
    for (header, len) in frames {
        let at = s.put(header);
        let buffers = [readable(at, header.len() as u32), readable(RAM_END - (2 << 20), *len)];
        rings[TX].send(s, if *len == 0 { &buffers[..1] } else { &buffers });
        rings[TX].wait_len(s, 0);
    }
    probe(s, Device::Net);
}

/// Adds the cases.
pub fn add(s: &mut Script) {
    transmission(s);
    reception(s);
}

fn transmission(s: &mut Script) {
    s.case("a frame shorter than its header", "Cloud Hypervisor #8142; QEMU CVE-2021-3748");
    let base = s.base(Device::Net);
    for len in [1, 10, 11] {
        let mut rings = start(s, Device::Net);
        rings[TX].send(s, &[readable(ARENA, len)]);
        wait_broken(s, base);
        probe(s, Device::Net);
    }
    s.case("a frame for the device to write", "Cloud Hypervisor #3548");
    let mut rings = start(s, Device::Net);
    rings[TX].send(s, &[readable(ARENA, 72), writable(ARENA, 72)]);
    wait_broken(s, base);
    probe(s, Device::Net);
    s.case("frames that are empty, short or longer than any network's", "Cloud Hypervisor #8142");
    let plain = header(0, 0, [0; 4]);
    taken(s, 0, &[0, 1, 13, 65_554, 0x2_0000, 2 << 20].map(|len| (plain.clone(), len)));
    s.case("offloads that were not agreed on", "QEMU CVE-2023-6693; VIRTIO 5.1.6.2");
    let all = [(1, 0), (2, 0), (4, 0), (0xff, 0xff), (0, 1), (0, 3), (0, 4), (0, 5), (0, 0x80), (1, 0x81)];
    let frames: Vec<_> = all.iter().map(|(flags, gso)| (header(*flags, *gso, [54, 1400, 34, 16]), 1500)).collect();
    taken(s, 0, &frames);
    s.case("checksums and segments past the end of the frame", "Cloud Hypervisor #8722; VIRTIO 5.1.6.2");
    let lies = [[0, 0, 0xffff, 0xffff], [0xffff, 1, 0, 0], [0, 0, 60, 2], [54, 0, 34, 16], [0, 0xffff, 34, 0xffff]];
    let frames: Vec<_> = lies.iter().flat_map(|lie| [0, 1, 4].map(|gso| (header(1, gso, *lie), 60))).collect();
    taken(s, CSUM | HOST_TSO4 | HOST_TSO6, &frames);
}

fn reception(s: &mut Script) {
    let base = s.base(Device::Net);
    s.case("buffers for frames without room for a header", "Cloud Hypervisor #8142; VIRTIO 5.1.6.3.1");
    for features in [0, MRG_RXBUF] {
        let mut rings = start_with(s, Device::Net, VERSION_1 | features, 16);
        rings[RX].send(s, &[writable(ARENA + 0x8000, 11)]);
        wait_broken(s, base);
        probe(s, Device::Net);
    }
    s.case("buffers for frames that the device must not write", "Cloud Hypervisor #3548");
    let mut rings = start(s, Device::Net);
    rings[RX].send(s, &[readable(ARENA + 0x8000, 2048)]);
    wait_broken(s, base);
    probe(s, Device::Net);
    s.case("one receive buffer again and again", "QEMU CVE-2022-26353; Firecracker #3149");
    let mut rings = start_with(s, Device::Net, VERSION_1 | MRG_RXBUF, 16);
    let buffer = s.alloc(64, 16);
    let head = rings[RX].chain(s, &[writable(buffer, 64)]);
    for _ in 0..16 {
        rings[RX].publish(s, head);
    }
    rings[RX].kick(s);
    probe(s, Device::Net);
    s.case("features that need others", "VIRTIO 5.1.3.1");
    for features in [HOST_TSO4, HOST_TSO6, GUEST_CSUM | HOST_TSO4, CSUM | 1 << 7, 1 << 8] {
        reset(s, base);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        choose(s, base, VERSION_1 | features);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        s.expect(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    }
    probe(s, Device::Net);
}
