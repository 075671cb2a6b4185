//! One good request to each device: it works after an attack.

use super::driver::{readable, reset, start, status, writable, Device};
use super::script::Script;

/// First bytes of the disk images.
pub const SECTOR_MARK: u64 = 0x6b73_6964_2061_2069;
/// A port of the host without a listener.
pub const CLOSED_PORT: u32 = 7;

/// Header of a request to a disk.
pub fn disk_header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Fields of a vsock packet (VIRTIO 1.2, 5.10.6).
#[derive(Clone, Copy)]
pub struct Packet {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Packet {
    /// A packet from the guest to a port of the host.
    pub fn new(src_port: u32, dst_port: u32, op: u16) -> Self {
        let (src_cid, dst_cid, buf_alloc) = (3, 2, 1 << 20);
        Self { src_cid, dst_cid, src_port, dst_port, len: 0, kind: 1, op, flags: 0, buf_alloc, fwd_cnt: 0 }
    }

    /// As on the wire.
    pub fn bytes(self) -> Vec<u8> {
        let words = [self.flags, self.buf_alloc, self.fwd_cnt];
        let mut bytes = [self.src_cid.to_le_bytes(), self.dst_cid.to_le_bytes()].concat();
        [self.src_port, self.dst_port, self.len].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        [self.kind, self.op].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }
}

/// A FUSE request: its header, with the right length, and its body.
pub fn fuse(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    fuse_with_len(opcode, node, body, 40 + u32::try_from(body.len()).expect("short"))
}

/// A FUSE request with any length in its header.
pub fn fuse_with_len(opcode: u32, node: u64, body: &[u8], len: u32) -> Vec<u8> {
    let unique = 5_u64;
    [&len.to_le_bytes()[..], &opcode.to_le_bytes(), &unique.to_le_bytes(), &node.to_le_bytes(), &[0; 16], body].concat()
}

/// Body of INIT: protocol 7.38, without flags.
pub fn fuse_init() -> Vec<u8> {
    [7_u32, 38, 0x2_0000, 0].iter().chain(&[0; 12]).flat_map(|word| word.to_le_bytes()).collect()
}

/// A request to the memory device.
pub fn mem_request(kind: u16, address: u64, blocks: u16) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 6], &address.to_le_bytes(), &blocks.to_le_bytes(), &[0; 6]].concat()
}

/// Brings `device` up from whatever state it is in, and has it serve one good request. Then resets it.
#[track_caller]
pub fn probe(s: &mut Script, device: Device) {
    let base = s.base(device);
    let mut rings = start(s, device);
    match device {
        Device::Rng => {
            let buffer = s.alloc(16, 16);
            rings[0].send(s, &[writable(buffer, 16)]);
            rings[0].wait_len(s, 16);
        }
        Device::Disk | Device::ReadOnlyDisk | Device::EmptyDisk => {
            let header = s.put(&disk_header(0, 0));
            let data = s.alloc(513, 16);
            s.fill(data, 513, 0xee);
            rings[0].send(s, &[readable(header, 16), writable(data, 512), writable(data + 512, 1)]);
            rings[0].wait_all(s);
            if device == Device::EmptyDisk {
                s.expect(1, data + 512, 1);
            } else {
                s.expect(1, data + 512, 0);
                s.expect(8, data, SECTOR_MARK);
            }
        }
        Device::Vsock => {
            // Without a listener the answer is RST.
            let (packet, answer) = (s.put(&Packet::new(9, CLOSED_PORT, 1).bytes()), s.alloc(64, 16));
            rings[0].send(s, &[writable(answer, 64)]);
            rings[1].send(s, &[readable(packet, 44)]);
            rings[0].wait_len(s, 44);
            s.expect(2, answer + 30, 3);
        }
        Device::Fs => {
            let (request, answer) = (s.put(&fuse(26, 0, &fuse_init())), s.alloc(80, 16));
            rings[1].send(s, &[readable(request, 104), writable(answer, 80)]);
            rings[1].wait_len(s, 80);
            s.expect(4, answer + 4, 0);
        }
        Device::Mem => {
            let (request, answer) = (s.put(&mem_request(3, super::script::PLUGGABLE, 1)), s.alloc(10, 16));
            rings[0].send(s, &[readable(request, 24), writable(answer, 10)]);
            rings[0].wait_len(s, 10);
            s.expect(2, answer, 0);
            s.expect(2, answer + 8, 1);
        }
        Device::Net => {
            let frame = s.alloc(72, 16);
            s.fill(frame, 72, 0);
            rings[1].send(s, &[readable(frame, 72)]);
            rings[1].wait_len(s, 0);
        }
    }
    s.expect(4, base + super::driver::reg::STATUS, status::LIVE);
    reset(s, base);
}
