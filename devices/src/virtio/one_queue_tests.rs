use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use vm_memory::GuestAddress;

use super::*;
use crate::testing::{Buffer, Driver, TEST_TIMEOUT};
use crate::virtio::mmio::registers::{self as reg, status};

/// Answers with the features of the session. Panics at a request of one byte.
#[derive(Default)]
struct Probe {
    connected: Mutex<Vec<bool>>,
}

impl Service for Probe {
    const DEVICE_TYPE: u32 = 42;
    const QUEUE_SIZE: u16 = 8;
    const THREAD: ThreadKind = ThreadKind::Entropy;

    fn connect(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        self.connected.lock().unwrap().push(interrupt.is_some());
    }

    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError> {
        assert_ne!(chain.writable_len(), 1, "on purpose, for a test");
        assert_eq!(session.name, "probe");
        let mut writer = chain.writer(&session.mem);
        writer.write_all(&session.features.to_le_bytes())?;
        Ok(writer.written())
    }
}

fn started() -> (Driver, Arc<Probe>) {
    let probe = Arc::new(Probe::default());
    (Driver::started(Box::new(OneQueue::of("probe", probe.clone())), RING_FEATURES), probe)
}

#[test]
fn requests_are_served_with_the_negotiated_features() {
    let (mut driver, _) = started();
    let (used, bytes) = driver.queue().transact(&[Buffer::Writable(8)]);
    assert_eq!((used.len, driver.queue().size()), (8, 8));
    assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()) & RING_FEATURES, RING_FEATURES);
    assert_eq!(driver.config(0, 4), [0; 4]);
}

#[test]
fn a_service_learns_of_drivers_that_come_and_go() {
    let (mut driver, probe) = started();
    driver.start(0);
    driver.transport.device_shutdown();
    assert_eq!(*probe.connected.lock().unwrap(), [true, false, true, false]);
}

#[test]
fn a_device_without_its_queue_is_an_error_and_has_no_driver() {
    let probe = Arc::new(Probe::default());
    let mut driver = Driver::new(Box::new(OneQueue::of("probe", probe.clone())));
    driver.negotiate(0);
    driver.add_status(crate::virtio::mmio::registers::status::DRIVER_OK);
    assert!(driver.needs_reset());
    assert!(probe.connected.lock().unwrap().is_empty());
}

#[test]
fn a_bug_in_a_service_is_a_request_for_a_reset() {
    let (mut driver, _) = started();
    driver.queue().send(&[Buffer::Writable(1)]);
    driver.wait_needs_reset();
    driver.start(RING_FEATURES);
    assert_eq!(driver.queue().transact(&[Buffer::Writable(8)]).0.len, 8);
}

/// Writes a byte into each request. The first request of a driver waits for a word from the test before that.
struct Hung {
    begun: Mutex<Sender<()>>,
    release: Mutex<Receiver<()>>,
    served: AtomicUsize,
}

impl Service for Hung {
    const DEVICE_TYPE: u32 = 42;
    const QUEUE_SIZE: u16 = 8;
    const THREAD: ThreadKind = ThreadKind::Entropy;

    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError> {
        if self.served.fetch_add(1, Ordering::SeqCst) == 0 {
            self.begun.lock().unwrap().send(()).unwrap();
            self.release.lock().unwrap().recv().unwrap();
        }
        let mut writer = chain.writer(&session.mem);
        writer.write_obj(7u8)?;
        Ok(writer.written())
    }
}

/// Lengths of descriptor table, available and used ring of a queue of 8.
const RING_SIZES: [usize; 3] = [16 * 8, 6 + 2 * 8, 6 + 8 * 8];

/// A device with one request that its host does not answer and two more in the queue.
fn hung() -> (Driver, Arc<Hung>, Sender<()>) {
    let ((begin, begun), (release, wait)) = (channel(), channel());
    let service = Arc::new(Hung { begun: Mutex::new(begin), release: Mutex::new(wait), served: AtomicUsize::new(0) });
    let device = OneQueue::of("hung", service.clone()).with_stop_timeout(Duration::from_millis(20));
    let mut driver = Driver::started(Box::new(device), 0);
    for _ in 0..3 {
        driver.queue().add(&[Buffer::Writable(1)]);
    }
    driver.queue().kick();
    begun.recv_timeout(TEST_TIMEOUT).unwrap();
    (driver, service, release)
}

#[test]
fn a_reset_of_a_hung_device_is_complete_when_its_thread_has_ended() {
    let (mut driver, service, release) = hung();
    let old = driver.queue().addresses();
    driver.write(reg::STATUS, 0);
    // 2.4.2: not complete before the driver reads 0.
    assert_eq!(driver.status(), status::NEEDS_RESET);
    // The guest uses the memory of the rings for something else.
    let parts: Vec<_> = old.into_iter().map(GuestAddress).zip(RING_SIZES).collect();
    let rings = || parts.iter().map(|(addr, len)| driver.ram.read(*addr, *len)).collect::<Vec<_>>().concat();
    parts.iter().for_each(|(addr, len)| driver.ram.write(*addr, &vec![0x5a; *len]));
    let interrupts = driver.line.count();
    release.send(()).unwrap();
    let start = Instant::now();
    while driver.status() != 0 {
        assert!(start.elapsed() < TEST_TIMEOUT);
        std::thread::yield_now();
    }
    assert!(rings().iter().all(|byte| *byte == 0x5a), "{:?}", rings());
    assert_eq!(driver.line.count(), interrupts);
    assert_eq!(service.served.load(Ordering::SeqCst), 1, "no request after the one in execution");
    driver.start(0);
    assert_eq!(driver.queue().transact(&[Buffer::Writable(1)]).1, [7]);
}

/// Linux does not read the status after a reset. Its driver must not share the queue's notifications with the old
/// thread, and must not be reached by it.
#[test]
fn a_hung_device_refuses_a_new_driver_and_spares_its_rings() {
    let (mut driver, service, release) = hung();
    let [desc, avail, used] = driver.queue().addresses();
    let old = driver.ram.read(GuestAddress(used), RING_SIZES[2]);
    driver.write(reg::STATUS, 0);
    driver.write(reg::STATUS, 1);
    driver.write(reg::STATUS, 3);
    driver.choose(1 << 32);
    driver.write(reg::STATUS, 11);
    assert!(driver.set_up_queue(0, 8, [desc, avail, used]));
    driver.write(reg::STATUS, 15);
    assert_eq!(driver.status(), 15 | status::NEEDS_RESET);
    assert!(driver.transport.device_pause().is_err(), "a thread may still write guest memory");
    let interrupts = driver.line.count();
    release.send(()).unwrap();
    let start = Instant::now();
    while driver.transport.device_pause().is_err() {
        assert!(start.elapsed() < TEST_TIMEOUT);
        std::thread::yield_now();
    }
    driver.transport.device_resume();
    assert_eq!(driver.ram.read(GuestAddress(used), RING_SIZES[2]), old);
    assert_eq!((driver.line.count(), service.served.load(Ordering::SeqCst)), (interrupts, 1));
    // The driver that was refused has to reset the device.
    assert!(driver.needs_reset());
    driver.start(0);
    assert_eq!(driver.queue().transact(&[Buffer::Writable(1)]).1, [7]);
}

#[test]
fn a_device_that_cannot_pause_says_so_and_goes_on() {
    let (mut driver, service, release) = hung();
    let error = driver.transport.device_pause().unwrap_err();
    assert!(error.to_string().contains("hung did not come to rest"), "{error}");
    release.send(()).unwrap();
    for _ in 0..3 {
        driver.queue().wait_used();
    }
    driver.transport.device_pause().unwrap();
    driver.queue().send(&[Buffer::Writable(1)]);
    assert_eq!((driver.queue().used(), service.served.load(Ordering::SeqCst)), (None, 3));
    driver.transport.device_resume();
    driver.queue().wait_used();
}
