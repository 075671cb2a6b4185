use std::sync::Mutex;

use super::*;
use crate::testing::{Buffer, Driver};

/// Answers with the features of the session. Panics at a request of one byte.
#[derive(Default)]
struct Probe {
    connected: Mutex<Vec<bool>>,
}

impl Service for Probe {
    const DEVICE_TYPE: u32 = 42;
    const QUEUE_SIZE: u16 = 8;

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
