//! Attacks on the disks (VIRTIO 1.2, 5.2).

use super::driver::{descriptor, negotiate, readable, reg, start_one, start_with, wait_broken, writable};
use super::driver::{Buf, Device, INDIRECT, INDIRECT_DESC, NEXT, VERSION_1, WRITE};
use super::probes::{disk_header, probe};
use super::script::{Script, RAM_END};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const IO_ERROR: u64 = 1;
const UNSUPPORTED: u64 = 2;

/// Sectors of the disk.
const SECTORS: u64 = 2048;

/// Sends one request and checks its status.
#[track_caller]
fn answers(s: &mut Script, device: Device, header: &[u8], data: &[Buf], status: u64) {
    let mut ring = start_one(s, device);
    let (header, len, last) = (s.put(header), header.len() as u32, s.alloc(1, 16));
    s.fill(last, 1, 0xee);
    let mut buffers = vec![readable(header, len)];
    buffers.extend_from_slice(data);
    buffers.push(writable(last, 1));
    ring.send(s, &buffers);
    ring.wait_all(s);
    s.expect(1, last, status);
    probe(s, device);
}

/// Adds the cases.
pub fn add(s: &mut Script) {
    sectors(s);
    shapes(s);
    ranges(s);
    media(s);
}

fn sectors(s: &mut Script) {
    const DATA: u64 = RAM_END - 0x20_0000;
    s.case("a sector whose offset overflows", "openvmm #4047 (LBA); VIRTIO 5.2.6.2");
    for sector in [u64::MAX, 1 << 55, (1 << 55) - 1, 1 << 63, u64::MAX - 7] {
        answers(s, Device::Disk, &disk_header(IN, sector), &[writable(DATA, 512)], IO_ERROR);
        answers(s, Device::Disk, &disk_header(OUT, sector), &[readable(DATA, 512)], IO_ERROR);
    }
    s.case("a transfer past the end of the disk", "Firecracker #5793; VIRTIO 5.2.6.2");
    for (sector, len) in [(SECTORS, 512), (SECTORS - 1, 1024), (0, 1 << 20 | 512)] {
        answers(s, Device::Disk, &disk_header(IN, sector), &[writable(DATA, len)], IO_ERROR);
        answers(s, Device::Disk, &disk_header(OUT, sector), &[readable(DATA, len)], IO_ERROR);
    }
    s.case("a transfer of part of a sector", "QEMU CVE-2011-1750 (heap overflow)");
    for len in [1, 511, 513, 1023] {
        answers(s, Device::Disk, &disk_header(IN, 0), &[writable(DATA, len)], IO_ERROR);
        answers(s, Device::Disk, &disk_header(OUT, 0), &[readable(DATA, len)], IO_ERROR);
    }
    s.case("a transfer of no sector", "Cloud Hypervisor #8401");
    answers(s, Device::Disk, &disk_header(IN, 0), &[], IO_ERROR);
    answers(s, Device::Disk, &disk_header(OUT, 0), &[], IO_ERROR);
    s.case("a transfer of more bytes than a request may have", "VIRTIO 5.2.4 (time without bound)");
    let mut ring = start_with(s, Device::Disk, VERSION_1 | INDIRECT_DESC, 16).remove(0);
    let (header, last, count) = (s.put(&disk_header(IN, 0)), s.alloc(1, 16), 1000_u16);
    let mut table = descriptor(header, 16, NEXT, 1).to_vec();
    (0..count).for_each(|at| table.extend(descriptor(DATA, 512 << 10, NEXT | WRITE, at + 2)));
    table.extend(descriptor(last, 1, WRITE, 0));
    let at = s.put(&table);
    ring.send_raw(s, &[descriptor(at, table.len() as u32, INDIRECT, 0)]);
    ring.wait_all(s);
    s.expect(1, last, IO_ERROR);
    probe(s, Device::Disk);
}

fn shapes(s: &mut Script) {
    const DATA: u64 = RAM_END - 0x20_0000;
    s.case("a request without a byte for its status", "Cloud Hypervisor #8401 (a head is lost)");
    let base = s.base(Device::Disk);
    for write in [false, true] {
        let mut ring = start_one(s, Device::Disk);
        let header = s.put(&disk_header(if write { OUT } else { IN }, 0));
        let all = [readable(header, 16), readable(DATA, 512)];
        ring.send(s, if write { &all } else { &all[..1] });
        wait_broken(s, base);
        probe(s, Device::Disk);
    }
    s.case("a header that is too short", "Cloud Hypervisor #8401");
    for len in [1, 8, 15] {
        answers(s, Device::Disk, &disk_header(IN, 0)[..len], &[writable(DATA, 512)], IO_ERROR);
    }
    s.case("a header for the device to write", "VIRTIO 5.2.6.1");
    let mut ring = start_one(s, Device::Disk);
    ring.send(s, &[writable(DATA, 16), writable(DATA + 512, 512), writable(DATA + 16, 1)]);
    ring.wait_all(s);
    s.expect(1, DATA + 16, IO_ERROR);
    probe(s, Device::Disk);
    s.case("data in the wrong direction", "Firecracker #5485; VIRTIO 5.2.6");
    answers(s, Device::Disk, &disk_header(IN, 0), &[readable(DATA, 512)], IO_ERROR);
    answers(s, Device::Disk, &disk_header(OUT, 0), &[writable(DATA, 512)], IO_ERROR);
    answers(s, Device::Disk, &disk_header(FLUSH, 0), &[writable(DATA, 512)], IO_ERROR);
    answers(s, Device::Disk, &disk_header(FLUSH, 0), &[readable(DATA, 512)], IO_ERROR);
    s.case("types of requests that do not exist", "QEMU's SCSI passthrough; VIRTIO 5.2.6");
    for kind in [2, 3, 5, 7, 9, 14, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        answers(s, Device::Disk, &disk_header(kind, 0), &[writable(DATA, 512)], UNSUPPORTED);
    }
    s.case("a serial number into a buffer that is too short", "VIRTIO 5.2.6.1");
    answers(s, Device::Disk, &disk_header(GET_ID, 0), &[writable(DATA, 19)], IO_ERROR);
    answers(s, Device::Disk, &disk_header(GET_ID, 0), &[], IO_ERROR);
    s.case("header, data and status in one place", "VIRTIO 5.2.6");
    let mut ring = start_one(s, Device::Disk);
    let header = s.put(&[&disk_header(IN, 0)[..], &[0; 512]].concat());
    ring.send(s, &[readable(header, 16), writable(header, 512), writable(header, 1)]);
    ring.wait_all(s);
    s.expect(1, header, 0);
    probe(s, Device::Disk);
}

fn ranges(s: &mut Script) {
    const DATA: u64 = RAM_END - 0x20_0000;
    let range = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    s.case("discards and zeroes outside the disk", "openvmm #4047 (LBA); VIRTIO 5.2.6.2");
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, sectors) in [(SECTORS, 1), (SECTORS - 1, 2), (u64::MAX, 1), (1 << 55, 1), (0, u32::MAX), (0, 0)] {
            s.copy(DATA, &range(sector, sectors, 0));
            answers(s, Device::Disk, &disk_header(kind, 0), &[readable(DATA, 16)], IO_ERROR);
        }
    }
    s.case("discards and zeroes with unknown flags", "VIRTIO 5.2.6.2");
    for (kind, flags) in [(DISCARD, 1), (DISCARD, 2), (WRITE_ZEROES, 2), (WRITE_ZEROES, u32::MAX)] {
        s.copy(DATA, &range(0, 1, flags));
        answers(s, Device::Disk, &disk_header(kind, 0), &[readable(DATA, 16)], UNSUPPORTED);
    }
    s.case("lists of ranges that are cut, empty or too long", "QEMU CVE-2024-7730 (lengths that are trusted)");
    s.copy(DATA, &range(0, 1, 0).repeat(17));
    for kind in [DISCARD, WRITE_ZEROES] {
        for len in [0, 1, 15, 17, 16 * 17] {
            let data = [readable(DATA, len)];
            answers(s, Device::Disk, &disk_header(kind, 0), if len == 0 { &[] } else { &data }, IO_ERROR);
        }
    }
    s.case("a list whose last range is invalid changes nothing", "VIRTIO 5.2.6.2");
    s.copy(DATA, &[range(0, 1, 0), range(SECTORS, 1, 0)].concat());
    answers(s, Device::Disk, &disk_header(DISCARD, 0), &[readable(DATA, 32)], IO_ERROR);
}

fn media(s: &mut Script) {
    const DATA: u64 = RAM_END - 0x20_0000;
    s.case("changes of a disk that can only be read", "BoxLite CVE-2026-46695; VIRTIO 5.2.6.2");
    s.fill(DATA, 512, 0);
    s.store(4, DATA + 8, 1);
    for (kind, len) in [(OUT, 512), (DISCARD, 16), (WRITE_ZEROES, 16)] {
        answers(s, Device::ReadOnlyDisk, &disk_header(kind, 0), &[readable(DATA, len)], IO_ERROR);
    }
    s.case("the features of writing for a disk that can only be read", "BoxLite CVE-2026-46695");
    let base = s.base(Device::ReadOnlyDisk);
    s.store(4, base + reg::DEVICE_FEATURES_SEL, 0);
    s.load(4, base + reg::DEVICE_FEATURES);
    s.check(1 << 5 | 1 << 13 | 1 << 14, 1 << 5);
    probe(s, Device::ReadOnlyDisk);
    s.case("requests to a disk without an image", "Kata CVE-2026-24054 (another file taken for the disk)");
    for kind in [IN, DISCARD] {
        let data = if kind == IN { writable(DATA, 512) } else { readable(DATA, 16) };
        answers(s, Device::EmptyDisk, &disk_header(kind, 0), &[data], IO_ERROR);
    }
    let base = s.base(Device::EmptyDisk);
    negotiate(s, base, VERSION_1);
    s.expect(8, base + reg::CONFIG, 0);
    probe(s, Device::EmptyDisk);
}
