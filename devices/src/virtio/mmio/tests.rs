use std::io;

use virtio_queue::QueueT;

use super::reg::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use super::*;
use crate::testing::{Driver, TestRam};
use crate::virtio::device::RING_FEATURES;
use crate::virtio::interrupt::ISR_CONFIG;
use crate::virtio::ActivateError;

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Features of the probe. [`FANCY`] needs this one.
const BASIC: u64 = 1;
const FANCY: u64 = 2;

/// The calls of a [`Probe`].
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A device that records the calls of its transport.
pub struct Probe {
    events: Events,
    activation: Option<Activation>,
    fails: bool,
    config: [u8; 8],
}

impl Probe {
    pub fn boxed(events: &Events) -> Box<Self> {
        Box::new(Self { events: events.clone(), activation: None, fails: false, config: *b"config!!" })
    }
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        42
    }

    fn name(&self) -> &str {
        "probe"
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[128, 16]
    }

    fn features(&self) -> u64 {
        RING_FEATURES | BASIC | FANCY
    }

    fn accepts_features(&self, features: u64) -> bool {
        features & (BASIC | FANCY) != FANCY
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| self.config.get(at)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.events.push(format!("config {offset} {data:?}"));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        assert!(self.activation.is_none(), "activated twice");
        if self.fails {
            return Err(ActivateError::Host { what: "nothing", source: io::ErrorKind::Other.into() });
        }
        let queues: Vec<_> = activation.queues.iter().flatten().map(|queue| queue.queue.size()).collect();
        self.events.push(format!("activate {:#x} {queues:?}", activation.features & !VERSION_1));
        self.activation = Some(activation);
        Ok(())
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        assert!(self.activation.take().is_some(), "deactivated while inactive");
        self.events.push("deactivate");
        Ok(())
    }

    fn pause(&mut self) -> Result<(), WorkerError> {
        self.events.push("pause");
        Ok(())
    }

    fn resume(&mut self) {
        self.events.push("resume");
    }
}

fn driver_in(ram: TestRam) -> (Driver, Events) {
    let events = Events::default();
    (Driver::with_ram(Probe::boxed(&events), ram), events)
}

fn driver() -> (Driver, Events) {
    let events = Events::default();
    (Driver::new(Probe::boxed(&events)), events)
}

#[test]
fn identity_can_be_read_at_any_time() {
    let (driver, _) = driver();
    assert_eq!(driver.read(0), u32::from_le_bytes(*b"virt"));
    assert_eq!((driver.read(4), driver.read(8)), (2, 42));
    assert_eq!(driver.read(0xc).to_le_bytes(), *b"HTCH");
    assert_eq!(driver.offered(), VERSION_1 | RING_FEATURES | BASIC | FANCY);
    driver.write(reg::DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(reg::DEVICE_FEATURES), 0);
}

#[test]
fn a_driver_in_the_right_order_gets_a_live_device() {
    let (mut driver, events) = driver();
    driver.start(BASIC | RING_FEATURES);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(events.take(), [format!("activate {:#x} [64, 16]", BASIC | RING_FEATURES)]);
    driver.transport.device_pause().unwrap();
    driver.transport.device_resume();
    driver.start(0);
    assert_eq!(events.take(), ["pause", "resume", "deactivate", "activate 0x0 [64, 16]"]);
    driver.transport.device_shutdown();
    driver.transport.device_shutdown();
    driver.transport.device_pause().unwrap();
    assert_eq!((events.take(), driver.status()), (vec!["deactivate".to_owned()], 0));
}

#[test]
fn a_device_that_is_dropped_drops_its_queues() {
    let (mut driver, events) = driver();
    driver.start(0);
    drop(driver);
    assert_eq!(events.take().last().unwrap(), "deactivate");
}

#[test]
fn status_bits_come_one_after_the_other_and_never_go() {
    // VIRTIO 1.2, 2.1.1.
    let (driver, events) = driver();
    for early in [DRIVER, FEATURES_OK, DRIVER_OK, DRIVER | FEATURES_OK | DRIVER_OK] {
        assert_eq!(driver.add_status(early), 0);
    }
    assert_eq!(driver.add_status(ACKNOWLEDGE | DRIVER), ACKNOWLEDGE | DRIVER);
    assert_eq!(driver.add_status(DRIVER_OK), ACKNOWLEDGE | DRIVER);
    driver.write(reg::STATUS, DRIVER);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    assert!(events.take().is_empty());
}

#[test]
fn features_that_were_not_offered_or_do_not_fit_are_refused() {
    // VIRTIO 1.2, 2.2.2 and 6.1 (VIRTIO_F_VERSION_1).
    let good = VERSION_1 | BASIC;
    for (features, accepted) in
        [(good, true), (BASIC, false), (good | 1 << 20, false), (good | 1 << 50, false), (VERSION_1 | FANCY, false)]
    {
        let (driver, _) = driver();
        driver.add_status(ACKNOWLEDGE | DRIVER);
        driver.choose(features);
        assert_eq!(driver.add_status(FEATURES_OK) & FEATURES_OK != 0, accepted, "{features:#x}");
    }
    let (driver, _) = driver();
    driver.add_status(ACKNOWLEDGE | DRIVER);
    driver.choose(good);
    driver.write(reg::DRIVER_FEATURES_SEL, 2);
    driver.write(reg::DRIVER_FEATURES, 1);
    assert_eq!(driver.add_status(FEATURES_OK) & FEATURES_OK, 0, "features past bit 63 do not exist");
}

#[test]
fn features_are_fixed_once_they_are_negotiated() {
    let (mut driver, events) = driver();
    driver.choose(u64::MAX);
    driver.negotiate(BASIC);
    driver.choose(VERSION_1 | BASIC | FANCY);
    driver.add_status(DRIVER_OK);
    assert_eq!(events.take(), ["activate 0x1 []"]);
}

#[test]
fn queues_are_checked_before_they_become_ready() {
    let hole = TestRam::HOLE.0;
    let good = [0x1000, 0x2000, 0x3000];
    let bad = [
        (0, good),
        (3, good),
        (256, good),
        (0x1_0010, good),
        (16, [0x1008, 0x2000, 0x3000]),
        (16, [0x1000, 0x2001, 0x3000]),
        (16, [0x1000, 0x2000, 0x3002]),
        (16, [0, 0x2000, 0x3000]),
        (16, [0x1000, 0, 0x3000]),
        (16, [0x1000, 0x2000, 0]),
        (16, [hole, 0x2000, 0x3000]),
        (16, [hole - 0xf0, 0x2000, 0x3000]),
        (16, [0x1000, hole - 36, 0x3000]),
        (16, [0x1000, 0x2000, hole - 132]),
        (16, [u64::MAX - 15, 0x2000, 0x3000]),
        (16, [0x1000, u64::MAX - 1, 0x3000]),
        (16, [0x1000, 0x2000, u64::MAX - 3]),
    ];
    let (mut driver, _) = driver();
    driver.negotiate(0);
    for (size, addresses) in bad {
        assert!(!driver.set_up_queue(0, size, addresses), "{size} {addresses:x?}");
    }
    assert!(driver.set_up_queue(0, 16, [hole - 0x100, 0x2000, 0x3000]));
    assert!(driver.set_up_queue(1, 16, [0x1000, hole - 38, TestRam::BORDER.0 - 4]));
    assert!(!driver.set_up_queue(2, 16, good), "there is no such queue");
    driver.write(reg::QUEUE_SEL, 7);
    assert_eq!(driver.read(reg::QUEUE_NUM_MAX), 0);
    driver.write(reg::QUEUE_SEL, 1);
    assert_eq!(driver.read(reg::QUEUE_NUM_MAX), 16);
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok_only() {
    let good = [0x1000, 0x2000, 0x3000];
    let (mut driver, events) = driver();
    driver.add_status(ACKNOWLEDGE | DRIVER);
    assert!(!driver.set_up_queue(0, 16, good));
    driver.negotiate(0);
    assert!(driver.set_up_queue(0, 8, good));
    assert!(driver.set_up_queue(0, 16, [0x5000, 0x6000, 0x7000]), "it stays ready, as it was");
    driver.add_status(DRIVER_OK);
    assert!(!driver.set_up_queue(1, 16, good));
    assert!(driver.set_up_queue(0, 16, good));
    assert_eq!(events.take(), ["activate 0x0 [8]"]);
    driver.write(reg::STATUS, 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
}

#[test]
fn a_queue_can_be_taken_back_before_the_device_is_live() {
    let (mut driver, events) = driver();
    driver.negotiate(0);
    assert!(driver.set_up_queue(0, 8, [0x1000, 0x2000, 0x3000]));
    driver.write(reg::QUEUE_READY, 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    assert!(driver.set_up_queue(0, 16, [0x5000, 0x6000, 0x7000]));
    driver.add_status(DRIVER_OK);
    assert_eq!(events.take(), ["activate 0x0 [16]"]);
}

#[test]
fn taking_a_live_queue_back_stops_the_device() {
    // VIRTIO 1.2, 4.2.2.2: once the driver has read 0 back, it owns the queue.
    let (mut driver, events) = driver();
    driver.start(0);
    driver.write(reg::QUEUE_SEL, 0);
    driver.write(reg::QUEUE_READY, 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    assert_eq!(events.take().last().unwrap(), "deactivate");
    assert!(driver.needs_reset());
    driver.start(0);
    assert!(!driver.needs_reset());
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let events = Events::default();
    let mut probe = Probe::boxed(&events);
    probe.fails = true;
    let mut driver = Driver::new(probe);
    driver.start(0);
    assert!(driver.needs_reset());
    assert_eq!((driver.read(reg::INTERRUPT_STATUS), driver.line.count()), (ISR_CONFIG, 1));
    driver.write(reg::STATUS, 0);
    assert_eq!((driver.status(), driver.read(reg::INTERRUPT_STATUS)), (0, 0));
    assert!(events.take().is_empty());
}

#[test]
fn a_driver_that_gives_up_gets_its_queues_back() {
    let (mut driver, events) = driver();
    driver.start(0);
    driver.add_status(FAILED);
    assert_eq!(events.take().last().unwrap(), "deactivate");
    driver.add_status(DRIVER_OK);
    assert!(events.take().is_empty());
    driver.start(0);
    assert_eq!(events.take().len(), 1);
}

#[test]
fn interrupt_bits_are_read_and_acknowledged() {
    let (driver, _) = driver();
    let interrupt = driver.transport.interrupt.clone();
    let generation = driver.read(reg::CONFIG_GENERATION);
    interrupt.signal_queue();
    assert_eq!(driver.read(reg::CONFIG_GENERATION), generation);
    interrupt.signal_config();
    assert_eq!(driver.read(reg::CONFIG_GENERATION), generation + 1);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 3);
    driver.write(reg::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 2);
    driver.write(reg::INTERRUPT_ACK, u32::MAX);
    assert_eq!((driver.read(reg::INTERRUPT_STATUS), driver.line.count()), (0, 2));
}

#[test]
fn a_trapped_notification_reaches_the_queues_eventfd() {
    let (driver, _) = driver();
    for queue in [1, 1, 2, u32::MAX] {
        driver.write(reg::QUEUE_NOTIFY, queue);
    }
    assert_eq!(driver.transport.notifiers[1].read().unwrap(), 2);
    assert!(driver.transport.notifiers[0].read().is_err());
}

#[test]
fn configuration_space_takes_any_width() {
    let (driver, events) = driver();
    assert_eq!((driver.config(0, 1), driver.config(1, 2)), (b"c".to_vec(), b"on".to_vec()));
    assert_eq!((driver.config(0, 8), driver.config(6, 4)), (b"config!!".to_vec(), b"!!\0\0".to_vec()));
    assert_eq!(driver.config(0xeff, 8), [0; 8]);
    driver.transport.write(reg::CONFIG, b"x");
    assert!(events.take().is_empty(), "there is no driver yet");
    driver.add_status(ACKNOWLEDGE | DRIVER);
    driver.transport.write(reg::CONFIG + 2, &[1, 2]);
    assert_eq!(events.take(), ["config 2 [1, 2]"]);
}

#[test]
fn odd_accesses_are_harmless() {
    let (driver, _) = driver();
    let transport = &driver.transport;
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0x6f, 4), (0x200, 0), (0x48, 4), (0xfd, 4)] {
        let mut data = vec![0xaa; len];
        transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset:#x} {len}");
        transport.write(offset, &vec![1; len]);
    }
    transport.write(reg::STATUS, &[1]);
    transport.write(reg::STATUS, &[1; 8]);
    assert_eq!(driver.status(), 0);
    for register in [reg::SHM_LEN_LOW, reg::SHM_LEN_HIGH] {
        assert_eq!(driver.read(register), u32::MAX, "no shared memory");
    }
}

#[test]
fn rings_in_memory_that_is_not_plugged_in_are_refused_and_others_stay_plugged_in() {
    let (mut driver, events) = driver_in(TestRam::pluggable());
    let (map, first) = (driver.ram.plug_map(), TestRam::PLUGGABLE.0);
    let rings = |at: u64| [at, at + 0x400, at + 0x800];
    map.plug(1..2);
    driver.negotiate(0);
    assert!(!driver.set_up_queue(0, 16, rings(first)));
    assert!(!driver.set_up_queue(0, 16, rings(first + 2 * TestRam::BLOCK - 0x400)), "the last ring lies behind it");
    assert!(driver.set_up_queue(0, 16, rings(first + TestRam::BLOCK)));
    // Unplugged after the queue is ready: the device does not start.
    assert!(map.unplug(1..2), "there is no driver yet");
    driver.add_status(status::DRIVER_OK);
    assert!(driver.needs_reset() && events.take().is_empty());

    map.plug(1..2);
    driver.negotiate(0);
    assert!(driver.set_up_queue(0, 16, rings(first + TestRam::BLOCK)));
    driver.add_status(status::DRIVER_OK);
    assert!(!driver.needs_reset());
    assert!(!map.unplug(1..2), "the device uses the rings");
    driver.write(reg::STATUS, 0);
    assert!(map.unplug(1..2));
}
