//! Attacks on the registers of virtio over MMIO. The random number device stands for all: they share the transport.

use super::driver::{choose, negotiate, reg, reset, set_up, start_one, status, writable, Device, Ring};
use super::driver::{wait_broken, VERSION_1};
use super::probes::probe;
use super::script::{Script, HOLE, PLUGGABLE, RAM_END};

/// Adds the cases.
pub fn add(s: &mut Script) {
    widths_and_borders(s);
    configuration(s);
    selectors(s);
    queue_sizes(s);
    queue_addresses(s);
    live_changes(s);
    status_machine(s);
    features(s);
}

/// A random number device that has served one request and must serve another one after `body`, in the same session.
#[track_caller]
fn undisturbed(s: &mut Script, body: impl FnOnce(&mut Script, u64, &Ring)) {
    let mut ring = start_one(s, Device::Rng);
    let (base, buffer) = (s.base(Device::Rng), s.alloc(16, 16));
    ring.send(s, &[writable(buffer, 16)]);
    ring.wait_len(s, 16);
    body(s, base, &ring);
    ring.send(s, &[writable(buffer, 8)]);
    ring.wait_len(s, 8);
    s.expect(4, base + reg::STATUS, status::LIVE);
    probe(s, Device::Rng);
}

fn widths_and_borders(s: &mut Script) {
    s.case("reads of every width at every offset", "Firecracker #809; VIRTIO 4.2.2.2");
    undisturbed(s, |s, base, _| {
        for offset in 0..0x120 {
            for size in [1, 2, 4, 8] {
                s.load(size, base + offset);
                if offset < reg::CONFIG && (size != 4 || offset % 4 != 0) {
                    s.check(u64::MAX, 0);
                }
            }
        }
    });
    s.case("writes of every odd width at every offset", "Firecracker #809; VIRTIO 4.2.2.2");
    undisturbed(s, |s, base, _| {
        for offset in 0..0x120 {
            for size in [1, 2, 4, 8] {
                if size != 4 || offset % 4 != 0 {
                    s.store(size, base + offset, u64::MAX);
                }
            }
        }
    });
    s.case("writes to registers that can only be read", "VIRTIO 4.2.2, table 4.1");
    undisturbed(s, |s, base, _| {
        for register in (0..0x14).step_by(4).chain([reg::QUEUE_NUM_MAX, reg::INTERRUPT_STATUS, reg::GENERATION]) {
            s.store(4, base + register, u64::MAX);
        }
        s.expect(4, base, 0x7472_6976);
        s.expect(4, base + 8, 4);
    });
    s.case("writes to offsets without a register", "VIRTIO 4.2.2, table 4.1");
    undisturbed(s, |s, base, _| {
        for register in [0x18, 0x28, 0x2c, 0x3c, 0x40, 0x48, 0x4c, 0x54, 0x58, 0x68, 0x74, 0xa8, 0xc0, 0xf8] {
            s.store(4, base + register, u64::MAX);
            s.expect(4, base + register, 0);
        }
    });
    s.case("accesses across the end of a window", "Firecracker #809");
    undisturbed(s, |s, base, _| {
        for (size, offset) in [(2, 0xfff), (4, 0xffd), (4, 0xffe), (8, 0xffc), (8, 0xff9)] {
            s.load(size, base + offset);
            s.store(size, base + offset, u64::MAX);
        }
    });
    s.case("accesses between and after the windows", "Cloud Hypervisor #8405; QEMU CVE-2021-3748");
    undisturbed(s, |s, _, _| {
        for address in [0xc000_0000, 0xcfff_fffe, 0xd001_0000, 0xd001_3fff, 0xdfff_0000] {
            for size in [1, 2, 4, 8] {
                s.load(size, address);
                s.store(size, address, u64::MAX);
            }
        }
        s.expect(4, 0xdfff_0000, 0xffff_ffff);
    });
    s.case("string instructions on a window", "Firecracker #809");
    undisturbed(s, |s, base, _| {
        let from = s.alloc(0x2000, 16);
        // mov rdi, from; mov rsi, base; mov ecx, 0x30; rep movsb, and the same by dwords: reads only.
        let code = |from: u64, to: u64, count: u32, step: u8| {
            let (from, to, count) = (from.to_le_bytes(), to.to_le_bytes(), count.to_le_bytes());
            [&[0x56, 0x48, 0xbe][..], &from, &[0x48, 0xbf], &to, &[0xb9], &count, &[0xf3, step, 0x5e, 0xc3]].concat()
        };
        s.call(&code(base, from, 0x60, 0xa4));
        s.call(&code(base, from, 0x1c, 0xa5));
        // Zeroes to configuration space and past it.
        s.fill(from, 0x80, 0);
        s.call(&code(from, base + reg::CONFIG, 0x80, 0xa4));
    });
}

fn configuration(s: &mut Script) {
    s.case("configuration space is read past its end", "QEMU CVE-2013-2016; VIRTIO 2.5");
    for device in [Device::Rng, Device::Disk, Device::Vsock, Device::Fs, Device::Mem] {
        let base = s.base(device);
        for size in [1, 2, 4, 8] {
            for offset in [0x40, 0x7c, 0xfe, 0x400, 0xef8] {
                s.load(size, base + reg::CONFIG + offset);
                s.check(u64::MAX, 0);
            }
            // Across the end of what the device has.
            for offset in [5, 7, 11, 37, 43, 53, 55, 57, 59] {
                s.load(size, base + reg::CONFIG + offset);
            }
        }
        probe(s, device);
    }
    s.case("configuration space is written, in it and past it", "QEMU CVE-2013-2016; VIRTIO 2.5.1");
    for device in [Device::Rng, Device::Disk, Device::Vsock, Device::Fs, Device::Mem] {
        let base = s.base(device);
        negotiate(s, base, device.features());
        for size in [1, 2, 4, 8] {
            for offset in [0, 1, 3, 7, 8, 20, 36, 48, 54, 0x3f, 0x100, 0xef8] {
                s.store(size, base + reg::CONFIG + offset, u64::MAX);
            }
        }
        probe(s, device);
    }
    let disk = s.base(Device::Disk);
    s.expect(8, disk + reg::CONFIG, 2048);
    s.case("the configuration generation changes only with the configuration", "VIRTIO 2.5.1");
    let base = s.base(Device::Disk);
    s.load(4, base + reg::GENERATION);
    s.check(0xffff_0000, 0);
    s.store(4, base + reg::GENERATION, 77);
    probe(s, Device::Disk);
    s.expect(4, base + reg::GENERATION, 0);
    s.case("shared memory regions that do not exist", "VIRTIO 4.2.2");
    let base = s.base(Device::Fs);
    for select in [0, 1, 0xff, 0xffff_ffff] {
        s.store(4, base + 0xac, select);
        for register in [0xb0, 0xb4, 0xb8, 0xbc] {
            s.expect(4, base + register, 0xffff_ffff);
            s.store(4, base + register, 0);
        }
    }
    probe(s, Device::Fs);
}

fn selectors(s: &mut Script) {
    s.case("a queue that does not exist is selected and set up", "Cloud Hypervisor #7917; VIRTIO 4.2.2");
    for device in [Device::Rng, Device::Vsock] {
        let base = s.base(device);
        negotiate(s, base, device.features());
        for index in [device.queues(), 0x7f, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            set_up(s, base, index, 16, [0x40_0000, 0x40_1000, 0x40_2000]);
            s.expect(4, base + reg::QUEUE_NUM_MAX, 0);
            s.expect(4, base + reg::QUEUE_READY, 0);
        }
        probe(s, device);
    }
    s.case("a queue that does not exist is notified", "QEMU CVE-2011-2512");
    undisturbed(s, |s, base, _| {
        for index in [1, 2, 0x40, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            s.store(4, base + reg::QUEUE_NOTIFY, index);
        }
    });
    s.case("a device is notified before it runs", "VIRTIO 3.1.1; Cloud Hypervisor #7917");
    let base = s.base(Device::Rng);
    reset(s, base);
    s.store(4, base + reg::QUEUE_NOTIFY, 0);
    negotiate(s, base, VERSION_1);
    s.repeat(100, |s| s.store(4, base + reg::QUEUE_NOTIFY, 0));
    probe(s, Device::Rng);
    s.case("a flood of notifications without requests", "Firecracker CVE-2020-16843 (a flood stalls a device)");
    undisturbed(s, |s, _, ring| s.repeat(2000, |s| ring.kick(s)));
    s.case("interrupts are acknowledged that never came", "VIRTIO 4.2.2");
    undisturbed(s, |s, base, _| {
        for bits in [0xffff_ffff, 4, 0x8000_0000, 0] {
            s.store(4, base + reg::INTERRUPT_ACK, bits);
        }
        s.expect(4, base + reg::INTERRUPT_STATUS, 0);
    });
}

/// Sets up the queue of a random number device with these values. It must refuse them, and cannot start.
#[track_caller]
fn refused(s: &mut Script, size: u64, addresses: [u64; 3]) {
    let base = s.base(Device::Rng);
    negotiate(s, base, VERSION_1);
    set_up(s, base, 0, size, addresses);
    s.expect(4, base + reg::QUEUE_READY, 0);
    s.store(4, base + reg::STATUS, status::LIVE);
    wait_broken(s, base);
}

fn queue_sizes(s: &mut Script) {
    const GOOD: [u64; 3] = [0x40_0000, 0x40_4000, 0x40_8000];
    for (name, source, sizes) in [
        ("a queue of size 0", "QEMU CVE-2017-17381; VIRTIO 4.2.2", &[0, 0x1_0000][..]),
        ("a queue whose size is not a power of two", "Firecracker #59; VIRTIO 2.7", &[3, 5, 6, 63]),
        ("a queue larger than the device allows", "QEMU CVE-2026-50626; VIRTIO 4.2.2", &[128, 0x8000, 0x1_0040]),
        ("a queue whose size has bits past 16", "VIRTIO 2.7: 32768 at most", &[0x1_0010, 0x8000_0010, 0xffff_ffff]),
    ] {
        s.case(name, source);
        sizes.iter().for_each(|size| refused(s, *size, GOOD));
        probe(s, Device::Rng);
    }
}

fn queue_addresses(s: &mut Script) {
    const A: u64 = 0x40_0000;
    for (name, source, all) in [
        ("rings at address 0", "Firecracker #809", &[[0, 0, 0], [A, 0, A], [A, A, 0]][..]),
        ("rings that are not aligned", "VIRTIO 2.7", &[[A + 8, A, A], [A, A + 1, A], [A, A, A + 2]]),
        (
            "rings that end past the memory",
            "Firecracker #1296",
            &[[RAM_END - 240, A, A], [A, RAM_END - 36, A], [A, A, RAM_END - 132]],
        ),
        ("rings where there is nothing", "Firecracker CVE-2019-18960", &[[HOLE, A, A], [A, HOLE, A], [A, A, HOLE]]),
        (
            "rings in a device's registers",
            "QEMU CVE-2024-3446",
            &[[0xd000_0000, A, A], [A, 0xd000_0000, A], [A, A, 0xd000_0000], [A, A, 0xfee0_0000]],
        ),
        (
            "rings that wrap around the address space",
            "openvmm #4047",
            &[[u64::MAX - 15, A, A], [A, u64::MAX - 3, A], [A, A, u64::MAX - 3]],
        ),
        (
            "rings in memory that is not plugged in",
            "VIRTIO 5.15.3",
            &[[PLUGGABLE, A, A], [A, PLUGGABLE, A], [A, A, PLUGGABLE + 0x1000]],
        ),
    ] {
        s.case(name, source);
        all.iter().for_each(|addresses| refused(s, 16, *addresses));
        probe(s, Device::Rng);
    }
    s.case("a used ring that ends with the memory", "Firecracker #1296 (an exact fit was refused)");
    let base = s.base(Device::Rng);
    negotiate(s, base, VERSION_1);
    let mut ring = Ring::new(s, base, 0, 16);
    ring.used = (RAM_END - 134) & !3;
    s.fill(ring.used, 134, 0);
    ring.register(s);
    s.expect(4, base + reg::QUEUE_READY, 1);
    s.store(4, base + reg::STATUS, status::LIVE);
    let buffer = s.alloc(16, 16);
    ring.send(s, &[writable(buffer, 16)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
    s.case("rings over the firmware's tables and the guest's own IDT", "a used ring in ROM: QEMU CVE-2021-3748");
    for used in [0xe_0000, 0xf_0000, 0xa100] {
        negotiate(s, base, VERSION_1);
        let mut ring = Ring::new(s, base, 0, 16);
        ring.used = used;
        s.fill(used, 134, 0);
        ring.register(s);
        s.store(4, base + reg::STATUS, status::LIVE);
        ring.send(s, &[writable(buffer, 16)]);
        ring.wait_len(s, 16);
    }
    probe(s, Device::Rng);
    s.case("rings that overlap each other", "virtio-villain 0.9; VIRTIO 2.7");
    negotiate(s, base, VERSION_1);
    set_up(s, base, 0, 16, [A, A, A]);
    s.store(4, base + reg::STATUS, status::LIVE);
    s.repeat(20, |s| {
        s.add(2, A + 2, 1);
        s.store(4, base + reg::QUEUE_NOTIFY, 0);
    });
    probe(s, Device::Rng);
}

fn live_changes(s: &mut Script) {
    s.case("a queue is changed while the device runs", "Firecracker CVE-2026-5747");
    undisturbed(s, |s, base, _| {
        set_up(s, base, 0, 64, [0x60_0000, 0x60_1000, 0x60_2000]);
        set_up(s, base, 0, 0, [u64::MAX; 3]);
        s.store(4, base + reg::QUEUE_NUM, 3);
    });
    s.case("a queue is changed after it is ready", "Firecracker CVE-2026-5747; VIRTIO 4.2.2.2");
    let base = s.base(Device::Rng);
    negotiate(s, base, VERSION_1);
    let mut ring = Ring::new(s, base, 0, 16);
    ring.register(s);
    set_up(s, base, 0, 0x8000, [u64::MAX; 3]);
    s.expect(4, base + reg::QUEUE_READY, 1);
    s.store(4, base + reg::STATUS, status::LIVE);
    let buffer = s.alloc(16, 16);
    ring.send(s, &[writable(buffer, 16)]);
    ring.wait_len(s, 16);
    probe(s, Device::Rng);
    s.case("a queue is taken back while the device runs", "VIRTIO 4.2.2.2");
    let mut ring = start_one(s, Device::Rng);
    s.store(4, base + reg::QUEUE_READY, 0);
    wait_broken(s, base);
    s.expect(4, base + reg::QUEUE_READY, 0);
    ring.send(s, &[writable(buffer, 16)]);
    s.store(4, base + reg::QUEUE_READY, 1);
    s.expect(4, base + reg::QUEUE_READY, 0);
    probe(s, Device::Rng);
    s.case("a queue is set up before the features are agreed on", "VIRTIO 3.1.1");
    reset(s, base);
    set_up(s, base, 0, 16, [0x40_0000, 0x40_1000, 0x40_2000]);
    s.expect(4, base + reg::QUEUE_READY, 0);
    s.store(4, base + reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    set_up(s, base, 0, 16, [0x40_0000, 0x40_1000, 0x40_2000]);
    s.expect(4, base + reg::QUEUE_READY, 0);
    probe(s, Device::Rng);
    s.case("QueueReady is written with other values", "VIRTIO 4.2.2.2");
    negotiate(s, base, VERSION_1);
    for value in [2, 3, 0x100, 0xffff_fffe, 0xffff_ffff] {
        s.store(4, base + reg::QUEUE_READY, value);
        s.expect(4, base + reg::QUEUE_READY, 0);
    }
    probe(s, Device::Rng);
}

fn status_machine(s: &mut Script) {
    use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, LIVE, NEEDS_RESET};
    let base = s.base(Device::Rng);
    s.case("status bits out of order", "Firecracker #5818; VIRTIO 3.1.1");
    for (written, seen) in [(DRIVER_OK, 0), (FEATURES_OK, 0), (DRIVER, 0), (DRIVER | FEATURES_OK | DRIVER_OK, 0)] {
        reset(s, base);
        s.store(4, base + reg::STATUS, written);
        s.expect(4, base + reg::STATUS, seen);
    }
    probe(s, Device::Rng);
    s.case("status bits are cleared without a reset", "Firecracker #5818; VIRTIO 2.1.1");
    undisturbed(s, |s, base, _| {
        for value in [ACKNOWLEDGE, DRIVER, LIVE & !FEATURES_OK, LIVE & !DRIVER_OK] {
            s.store(4, base + reg::STATUS, value);
            s.expect(4, base + reg::STATUS, LIVE);
        }
    });
    s.case("status bits that do not exist", "VIRTIO 2.1");
    undisturbed(s, |s, base, _| {
        for value in [LIVE | 0x30, LIVE | 0xffff_ff00, LIVE | NEEDS_RESET] {
            s.store(4, base + reg::STATUS, value);
            s.expect(4, base + reg::STATUS, LIVE);
        }
    });
    s.case("DRIVER_OK without queues", "Firecracker #5818; VIRTIO 3.1.1");
    for device in [Device::Rng, Device::Disk, Device::Vsock, Device::Fs, Device::Mem] {
        let base = s.base(device);
        negotiate(s, base, device.features());
        s.store(4, base + reg::STATUS, LIVE);
        wait_broken(s, base);
        probe(s, device);
    }
    s.case("DRIVER_OK again and again", "Firecracker #5818 (activated twice)");
    undisturbed(s, |s, base, _| s.repeat(50, |s| s.store(4, base + reg::STATUS, LIVE)));
    s.case("a driver that has failed goes on", "VIRTIO 2.1");
    let ring = start_one(s, Device::Rng);
    s.store(4, base + reg::STATUS, LIVE | FAILED);
    s.expect(4, base + reg::STATUS, LIVE | FAILED);
    ring.kick(s);
    s.store(4, base + reg::STATUS, LIVE);
    set_up(s, base, 0, 16, [0x40_0000, 0x40_1000, 0x40_2000]);
    s.expect(4, base + reg::STATUS, LIVE | FAILED);
    probe(s, Device::Rng);
    s.case("a storm of resets", "Firecracker #5818; Cloud Hypervisor CVE-2026-45782");
    let rings = [start_one(s, Device::Rng)];
    s.repeat(60, |s| {
        reset(s, base);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER);
        choose(s, base, VERSION_1);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        rings[0].register(s);
        s.store(4, base + reg::STATUS, LIVE);
        rings[0].kick(s);
    });
    probe(s, Device::Rng);
}

fn features(s: &mut Script) {
    use status::{ACKNOWLEDGE, DRIVER, FEATURES_OK};
    let base = s.base(Device::Rng);
    // FEATURES_OK must stay clear with these.
    let refuse = |s: &mut Script, features: u64| {
        reset(s, base);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER);
        choose(s, base, features);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        s.expect(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER);
    };
    s.case("features that the device does not offer", "VIRTIO 2.2.1; Firecracker #5818");
    for bit in [0, 5, 23, 27, 33, 34, 35, 37, 40, 63] {
        refuse(s, VERSION_1 | 1 << bit);
    }
    probe(s, Device::Rng);
    s.case("a driver without VERSION_1", "VIRTIO 6.1");
    refuse(s, 0);
    refuse(s, 1 << 28);
    probe(s, Device::Rng);
    s.case("features past bit 63", "VIRTIO 4.2.2");
    for select in [2, 3, 0x7fff_ffff, 0xffff_ffff] {
        s.store(4, base + reg::DEVICE_FEATURES_SEL, select);
        s.expect(4, base + reg::DEVICE_FEATURES, 0);
        reset(s, base);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER);
        choose(s, base, VERSION_1);
        s.store(4, base + reg::DRIVER_FEATURES_SEL, select);
        s.store(4, base + reg::DRIVER_FEATURES, 1);
        s.store(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        s.expect(4, base + reg::STATUS, ACKNOWLEDGE | DRIVER);
    }
    probe(s, Device::Rng);
    s.case("features are changed after they were agreed on", "VIRTIO 3.1.1");
    undisturbed(s, |s, base, _| {
        choose(s, base, u64::MAX);
        choose(s, base, 0);
    });
}
