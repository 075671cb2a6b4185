use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::testing::{Driver, TEST_TIMEOUT};
use crate::virtio::block::Block;
use crate::virtio::device::RING_FEATURES;
use crate::virtio::fs::{Fs, FsDeviceConfig};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Vsock, VsockDeviceConfig};
use crate::virtio::VirtioDevice;

/// The kind of a thread, the name of the thread that asked for its start, and its own.
type Start = (ThreadKind, Option<String>, Option<String>);

/// Does jobs on a thread called `maker`, and reports where each `start` was asked for and where it was called.
struct Reporter(Mutex<Sender<Start>>);

fn name() -> Option<String> {
    thread::current().name().map(str::to_owned)
}

impl ThreadHost for Reporter {
    fn start(&self, kind: ThreadKind) -> ThreadStart {
        let (made_by, sender) = (name(), self.0.lock().unwrap().clone());
        Box::new(move || sender.send((kind, made_by, name())).unwrap())
    }

    fn call(&self, job: Job) {
        thread::Builder::new().name("maker".into()).spawn(job).unwrap().join().unwrap();
    }
}

type Starts = Receiver<Start>;

fn started(device: impl VirtioDevice + 'static) -> (Driver, Starts) {
    let (sender, starts) = channel();
    let mut driver = Driver::new(Box::new(device));
    driver.transport = driver.transport.with_threads(Threads::new(Arc::new(Reporter(Mutex::new(sender)))));
    driver.start(RING_FEATURES);
    (driver, starts)
}

#[test]
fn threads_of_devices_are_made_elsewhere_and_call_their_start_first() {
    let dir = tempfile::tempdir().unwrap();
    let share = FsDeviceConfig { path: dir.path().to_owned(), tag: "share".into(), ..FsDeviceConfig::default() };
    let (vsock, _handle) = Vsock::new(VsockDeviceConfig { guest_cid: 3 });
    let check = |(_driver, starts): (Driver, Starts), kind: ThreadKind, threads: &[&str]| {
        for expected in threads {
            let (found, made_by, called_by) = starts.recv_timeout(TEST_TIMEOUT).unwrap();
            assert_eq!((found, made_by.as_deref()), (kind, Some("maker")));
            assert!(called_by.is_some_and(|name| name.starts_with(expected)), "{expected}");
        }
    };
    check(started(Rng::new("rng")), ThreadKind::Entropy, &["rng"]);
    check(started(Block::slot("disk").0), ThreadKind::Block, &["disk"]);
    check(started(vsock), ThreadKind::Sockets, &["vsock"]);
    check(started(Fs::new(share).unwrap()), ThreadKind::FileServer, &["", ""]);
}

#[test]
fn a_device_comes_back_to_its_transport() {
    let (driver, _starts) = started(Rng::new("rng"));
    assert_eq!(driver.read(crate::virtio::mmio::registers::DEVICE_ID), 4);
    driver.write(crate::virtio::mmio::registers::STATUS, 0);
    assert_eq!((driver.status(), driver.read(crate::virtio::mmio::registers::DEVICE_ID)), (0, 4));
}

#[test]
fn a_panic_of_a_job_goes_on_in_its_caller() {
    let (sender, _starts) = channel();
    let threads = Threads::new(Arc::new(Reporter(Mutex::new(sender))));
    assert_eq!(threads.call(name).as_deref(), Some("maker"));
    let caller = catch_unwind(AssertUnwindSafe(|| threads.call(|| panic!("on purpose, for a test"))));
    assert_eq!(caller.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose, for a test"));
}
