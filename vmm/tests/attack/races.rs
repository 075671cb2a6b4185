//! Rings and descriptors that change while devices work: a second processor writes to them all the time.

use super::driver::{choose, readable, reg, reset, status, writable, Device, Ring, INDIRECT_DESC};
use super::interpreter::{scribbler, SCRIBBLED, SCRIBBLED_LEN, SCRIBBLER, SCRIBBLER_END, SCRIBBLES};
use super::probes::{disk_header, fuse, fuse_init, mem_request, probe, Packet};
use super::script::{Script, PLUGGABLE};

/// Local APIC: spurious interrupt vector, and interrupt command.
const SPURIOUS: u64 = 0xfee0_00f0;
const COMMAND: u64 = 0xfee0_0300;

/// Starts the second processor.
fn begin(s: &mut Script) {
    s.store(2, SCRIBBLES, 0);
    s.copy(SCRIBBLER, scribbler());
    s.store(4, SPURIOUS, 0x1ff);
    s.store(4, COMMAND, 0x000c_4500);
    s.repeat(1000, |s| s.load(4, SCRIBBLES));
    s.store(4, COMMAND, 0x000c_4600 | SCRIBBLER >> 12);
    s.wait(1, SCRIBBLES, 0xff, 1);
}

/// Adds the cases. The machine needs two processors; the second one ends with the script.
pub fn add(s: &mut Script, rounds: u32) {
    for (at, (name, device)) in [
        ("rings of the random number device change while it works", Device::Rng),
        ("rings of the disk change while it works", Device::Disk),
        ("rings of the socket device change while it works", Device::Vsock),
        ("rings of the file server change while it works", Device::Fs),
        ("rings of the memory device change while it works", Device::Mem),
    ]
    .into_iter()
    .enumerate()
    {
        s.case(name, "rust-vmm vm-memory CVE-2020-13759 (accesses that tear); VIRTIO 2.7");
        if at == 0 {
            begin(s);
        }
        attack(s, device, rounds);
        // In memory that only the driver writes to.
        s.place(super::script::ARENA);
        probe(s, device);
    }
    s.store(1, SCRIBBLER_END, 1);
}

/// Starts the device with rings that change, and notifies it, again and again.
fn attack(s: &mut Script, device: Device, rounds: u32) {
    let base = s.base(device);
    let request = match device {
        Device::Disk => s.put(&disk_header(0, 0)),
        Device::Vsock => s.put(&Packet::new(1, super::sockets::TAKEN, 1).bytes()),
        Device::Fs => s.put(&fuse(26, 0, &fuse_init())),
        _ => s.put(&mem_request(3, PLUGGABLE, 1)),
    };
    let answer = s.alloc(0x1000, 16);
    s.place(SCRIBBLED);
    let mut rings: Vec<Ring> = (0..device.queues()).map(|index| Ring::new(s, base, index, 16)).collect();
    assert!(rings.last().expect("a queue").used + 134 <= SCRIBBLED + SCRIBBLED_LEN, "the rings fit");
    let buffers = [readable(request, 104), writable(answer, 512), writable(answer + 512, 1)];
    for ring in &mut rings {
        for _ in 0..5 {
            ring.chain(s, if device == Device::Rng { &buffers[1..] } else { &buffers });
        }
    }
    let features = device.features() | INDIRECT_DESC | super::driver::EVENT_IDX;
    s.repeat(rounds, |s| {
        reset(s, base);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        choose(s, base, features);
        s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        for ring in &rings {
            // A driver begins with empty rings: otherwise most sessions end at the first look.
            s.store(2, ring.avail + 2, 0);
            ring.register(s);
        }
        s.store(4, base + reg::STATUS, status::LIVE);
        for _ in 0..4 {
            for ring in &rings {
                s.add(2, ring.avail + 2, 1);
                ring.kick(s);
            }
            s.load(4, base + reg::STATUS);
        }
    });
}
