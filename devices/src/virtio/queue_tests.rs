use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::testing::{Buffer, DriverQueue, Line, TestRam, Used};
use crate::GuestRam;

struct Setup {
    mem: GuestRam,
    line: Arc<Line>,
    interrupt: DeviceInterrupt,
    driver: DriverQueue,
    device: DeviceQueue,
}

fn setup(features: u64) -> Setup {
    let ram = TestRam::new();
    let line = Arc::new(Line::default());
    let driver = DriverQueue::new(&ram, &line, 8, features);
    let device = driver.device_side();
    Setup { mem: ram.share(), interrupt: DeviceInterrupt::new(Box::new(line.clone())), line, driver, device }
}

impl Setup {
    /// Passes one request through the device. True if the driver was interrupted.
    fn round(&mut self) -> bool {
        let before = self.line.count();
        self.driver.add(&[Buffer::Writable(1)]);
        let chain = self.device.pop(&self.mem).unwrap().unwrap();
        self.device.complete(&self.mem, chain.head(), 1).unwrap();
        self.device.signal(&self.mem, &self.interrupt).unwrap();
        self.line.count() > before
    }
}

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

#[test]
fn requests_come_out_in_order_and_completions_go_in() {
    let mut setup = setup(0);
    assert!(setup.device.pop(&setup.mem).unwrap().is_none());
    let first = setup.driver.add(&[Buffer::Writable(1)]);
    let second = setup.driver.add(&[Buffer::Readable(b"x")]);
    assert_eq!(setup.device.pop(&setup.mem).unwrap().unwrap().head(), first.head);
    setup.device.unpop();
    assert_eq!(setup.device.pop(&setup.mem).unwrap().unwrap().head(), first.head);
    assert_eq!(setup.device.pop(&setup.mem).unwrap().unwrap().head(), second.head);
    assert!(setup.device.pop(&setup.mem).unwrap().is_none());
    setup.device.complete(&setup.mem, second.head, 0).unwrap();
    setup.device.complete(&setup.mem, first.head, 1).unwrap();
    assert_eq!(setup.driver.used(), Some(Used { id: u32::from(second.head), len: 0 }));
    assert_eq!(setup.driver.used(), Some(Used { id: u32::from(first.head), len: 1 }));
    assert_eq!(setup.driver.used(), None);
}

#[test]
fn the_rings_wrap_around() {
    let mut setup = setup(EVENT_IDX);
    for _ in 0..70_000 {
        assert!(setup.round());
        assert!(setup.driver.used().is_some());
    }
}

#[test]
fn completions_given_back_together_appear_together() {
    let mut setup = setup(0);
    for _ in 0..3 {
        setup.driver.add(&[Buffer::Writable(1)]);
        setup.device.pop(&setup.mem).unwrap().unwrap();
    }
    setup.device.complete_together(&setup.mem, &[(0, 1), (1, 2), (2, 3)]).unwrap();
    assert_eq!(setup.driver.used_idx(), 3);
    assert_eq!((1..=3).map(|_| setup.driver.used().unwrap().len).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(setup.device.complete_together(&setup.mem, &[(0, 1), (8, 2)]).is_err());
    assert_eq!(setup.driver.used_idx(), 3);
}

#[test]
fn the_avail_flag_suppresses_interrupts() {
    // VIRTIO 1.2, 2.7.7.
    let mut setup = setup(0);
    assert!(setup.round());
    setup.driver.set_avail_flags(1);
    assert!(!setup.round());
    setup.driver.set_avail_flags(0);
    assert!(setup.round());
    setup.device.signal(&setup.mem, &setup.interrupt).unwrap();
    assert_eq!(setup.line.count(), 2);
}

#[test]
fn the_used_event_suppresses_interrupts_until_it_is_passed() {
    // VIRTIO 1.2, 2.7.10; the avail flag is then meaningless.
    let mut setup = setup(EVENT_IDX);
    setup.driver.set_avail_flags(1);
    setup.driver.set_used_event(2);
    assert_eq!([(); 5].map(|()| setup.round()), [false, false, true, false, false]);
    // A batch that passes the event index interrupts, like one that ends at it.
    setup.driver.set_used_event(6);
    for _ in 0..4 {
        setup.driver.add(&[Buffer::Writable(1)]);
        let head = setup.device.pop(&setup.mem).unwrap().unwrap().head();
        setup.device.complete(&setup.mem, head, 0).unwrap();
    }
    setup.device.signal(&setup.mem, &setup.interrupt).unwrap();
    assert_eq!(setup.line.count(), 2);
}

#[test]
fn notifications_are_wanted_only_between_checks() {
    for features in [0, EVENT_IDX] {
        let mut setup = setup(features);
        assert!(!setup.device.enable_notifications(&setup.mem).unwrap());
        setup.driver.add(&[Buffer::Writable(1)]);
        assert!(setup.driver.kick_wanted());
        setup.device.disable_notifications(&setup.mem).unwrap();
        assert!(setup.device.pop(&setup.mem).unwrap().is_some());
        setup.driver.add(&[Buffer::Writable(1)]);
        assert!(!setup.driver.kick_wanted());
        assert!(setup.device.enable_notifications(&setup.mem).unwrap(), "a request came between the checks");
    }
}

#[test]
fn an_available_index_that_jumps_and_a_bad_chain_are_errors() {
    let mut setup = setup(0);
    setup.driver.publish(8);
    let error = setup.device.pop(&setup.mem).unwrap_err();
    assert!(matches!(error, QueueError::Chain { head: 8, source: ChainError::Broken }), "{error}");
    setup.driver.set_avail_idx(100);
    let error = setup.device.pop(&setup.mem).unwrap_err();
    assert!(matches!(error, QueueError::Ring { .. }), "{error}");
}

#[test]
fn a_device_can_come_back_to_its_queue() {
    let setup = setup(0);
    setup.device.notify_self();
    assert_eq!(setup.driver.notify.read().unwrap(), 1);
    setup.device.notify_self();
    setup.device.drain_notify();
    setup.device.drain_notify();
    assert!(setup.driver.notify.read().is_err());
}

#[test]
fn requests_before_a_malformed_one_are_signalled() {
    for features in [0, EVENT_IDX] {
        let mut setup = setup(features);
        setup.driver.add(&[Buffer::Writable(1)]);
        setup.driver.add(&[Buffer::Writable(1)]);
        setup.driver.publish(99);
        assert!(setup.device.serve(&setup.mem, &setup.interrupt, || false, |_| Ok(1)).is_err());
        assert_eq!((setup.driver.used_idx(), setup.line.count()), (2, 1));
        // The same if the device finds the fault.
        let mut setup = self::setup(features);
        let requests = [setup.driver.add(&[Buffer::Writable(1)]), setup.driver.add(&[Buffer::Writable(1)])];
        let work = |chain: &Chain| if chain.head() == requests[0].head { Ok(1) } else { Err(ChainError::Short) };
        assert!(setup.device.serve(&setup.mem, &setup.interrupt, || false, work).is_err());
        assert_eq!((setup.driver.used_idx(), setup.line.count()), (1, 1));
    }
}

#[test]
fn a_batch_ends_after_the_request_in_which_a_rest_was_wanted() {
    let mut setup = setup(EVENT_IDX);
    for _ in 0..4 {
        setup.driver.add(&[Buffer::Writable(1)]);
    }
    let served = std::cell::Cell::new(0);
    let wanted = || served.get() == 2;
    let work = |_: &Chain| {
        served.set(served.get() + 1);
        Ok(1)
    };
    setup.device.serve(&setup.mem, &setup.interrupt, wanted, work).unwrap();
    assert_eq!((served.get(), setup.driver.used_idx(), setup.line.count()), (2, 2, 1));
    // The worker comes back for the others.
    assert_eq!(setup.device.notify.read().unwrap(), 1);
    setup.device.serve(&setup.mem, &setup.interrupt, || false, |_| Ok(1)).unwrap();
    assert_eq!(setup.driver.used_idx(), 4);
}

#[test]
fn a_queue_whose_session_is_over_is_empty_and_leaves_its_rings_alone() {
    for features in [0, EVENT_IDX] {
        let mut setup = setup(features);
        let session = Session::new();
        setup.device = setup.device.in_session(session.clone());
        let interrupt = setup.interrupt.for_session(session.clone());
        let request = setup.driver.add(&[Buffer::Writable(1)]);
        setup.driver.add(&[Buffer::Writable(1)]);
        assert!(setup.device.pop(&setup.mem).unwrap().is_some());
        session.end();
        let [_, avail, used] = setup.driver.addresses().map(vm_memory::GuestAddress);
        let read = |addr| {
            let mut bytes = [0; 64];
            setup.mem.read_slice(&mut bytes, addr).unwrap();
            bytes
        };
        let before = (read(avail), read(used));
        setup.device.complete(&setup.mem, request.head, 1).unwrap();
        setup.device.signal(&setup.mem, &interrupt).unwrap();
        setup.device.disable_notifications(&setup.mem).unwrap();
        assert!(!setup.device.enable_notifications(&setup.mem).unwrap());
        assert!(setup.device.pop(&setup.mem).unwrap().is_none());
        interrupt.signal_config();
        interrupt.need_reset();
        assert_eq!(((read(avail), read(used)), setup.line.count()), (before, 0));
        assert!(!setup.interrupt.needs_reset());
    }
}
