//! Devices of a process without a free descriptor: a device that cannot start asks for a reset and starts later; a
//! connection is refused and the next one is not. A program of its own, because the limit holds for its process.

use std::fs::File;

use hutch_devices::testing::Buffer::{Readable, Writable};
use hutch_devices::testing::Driver;
use hutch_devices::virtio::fs::{Fs, FsDeviceConfig};
use hutch_devices::virtio::rng::Rng;
use hutch_devices::virtio::vsock::{Vsock, VsockDeviceConfig};
use hutch_devices::virtio::VirtioDevice;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// Almost no descriptor is free while this lives.
struct Exhausted {
    _files: Vec<File>,
    limit: (u64, u64),
}

impl Exhausted {
    /// Leaves `spare` descriptors free.
    fn new(spare: usize) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(limit.0), limit.1).unwrap();
        let mut files = Vec::new();
        loop {
            match File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    files.truncate(files.len() - spare);
                    return Self { _files: files, limit };
                }
            }
        }
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.limit.0, self.limit.1).unwrap();
    }
}

/// Starts a device without a free descriptor, again and again, and then with some.
fn starts_later(device: Box<dyn VirtioDevice>) -> Driver {
    let queues = device.queue_max_sizes().len();
    let mut driver = Driver::new(device);
    // The test's own driver takes one for each queue.
    let none = Exhausted::new(queues);
    for _ in 0..20 {
        driver.start(0);
        assert!(driver.needs_reset(), "no descriptor is free");
    }
    drop(none);
    driver.start(0);
    assert!(!driver.needs_reset());
    driver
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A packet from port `port` of the guest to port 1024 of the host.
fn packet(port: u8, op: u8) -> [u8; 44] {
    let mut bytes = [0; 44];
    (bytes[0], bytes[8], bytes[16], bytes[21], bytes[28], bytes[30]) = (3, 2, port, 4, 1, op);
    bytes[38] = 16;
    bytes
}

/// Sends a request for a connection and returns the operation of the answer.
fn connect(driver: &mut Driver, port: u8) -> u8 {
    let answer = driver.queues[0].add(&[Writable(64)]);
    driver.queues[0].kick();
    driver.queues[1].transact(&[Readable(&packet(port, 1))]);
    driver.queues[0].wait_used();
    answer.response(&driver.ram)[30]
}

#[test]
fn a_process_without_descriptors_refuses_and_recovers() {
    let before = descriptors();
    let mut driver = starts_later(Box::new(Rng::new("rng")));
    assert_eq!(driver.queue().transact(&[Writable(8)]).0.len, 8);
    drop(driver);

    let dir = tempfile::tempdir().unwrap();
    let config =
        FsDeviceConfig { id: "fs".into(), tag: "fs".into(), path: dir.path().to_owned(), ..FsDeviceConfig::default() };
    drop(starts_later(Box::new(Fs::new(config).unwrap())));

    let (vsock, handle) = Vsock::new(VsockDeviceConfig { guest_cid: 3 });
    let mut driver = starts_later(Box::new(vsock));
    let listener = handle.listen(1024).unwrap();
    let none = Exhausted::new(0);
    for port in 1..30 {
        assert_eq!(connect(&mut driver, port), 3, "refused: no socket");
    }
    drop(none);
    assert!(listener.try_recv().is_err());
    assert_eq!(connect(&mut driver, 30), 2, "accepted");
    drop(listener.recv().unwrap());
    drop((driver, handle, listener));
    drop(dir);
    assert_eq!(descriptors(), before);
}
