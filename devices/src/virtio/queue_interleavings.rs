//! The notification protocol between a driver and a worker under a scheduler that interleaves them at every access to
//! the rings (shuttle). Driver and device sleep when they have nothing to do; a notification or an interrupt that gets lost
//! leaves both asleep, which the scheduler reports as a deadlock.
//!
//! It interleaves whole accesses, as if each was visible to the other side at once. A processor's reordering is out of
//! its reach: the fences of the protocol are for that.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use shuttle::rand::Rng;
use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::{Condvar, Mutex};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestRegionMmap;

use super::*;
use crate::irq::Interrupt;
use crate::testing::{Buffer, DriverQueue, Line, TestRam};

/// Schedules of each scheduler per case.
const SCHEDULES: usize = 400;
/// Requests of a schedule, more than the queue has descriptors.
const REQUESTS: usize = 6;
/// Descriptors of the queue.
const SIZE: u16 = 4;

/// Gives the scheduler the choice of the thread that goes on.
fn step() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

/// Guest memory in which each access is a point of decision.
struct Stepped(GuestRam);

impl GuestMemory for Stepped {
    type R = GuestRegionMmap<()>;

    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        step();
        self.0.iter()
    }
}

/// Counts events, and lets one thread sleep until there is a new one.
#[derive(Default)]
struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.count.lock().unwrap() += 1;
        self.rung.notify_all();
    }

    fn count(&self) -> u64 {
        *self.count.lock().unwrap()
    }

    fn sleep_past(&self, seen: u64) {
        let mut count = self.count.lock().unwrap();
        while *count == seen {
            count = self.rung.wait(count).unwrap();
        }
    }
}

struct BellLine(Arc<Bell>);

impl Interrupt for BellLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.ring();
        Ok(())
    }
}

/// One side's bells, and the end of the device.
#[derive(Clone, Default)]
struct Bells {
    kick: Arc<Bell>,
    interrupt: Arc<Bell>,
    over: Arc<Mutex<bool>>,
}

/// The device's thread: serves when it is notified, and sleeps until then. It may be asked to rest at any time.
fn device(
    bells: &Bells,
    mem: &GuestRam,
    mut queue: DeviceQueue,
    serve: fn(&mut DeviceQueue, &Stepped, &DeviceInterrupt),
) {
    let interrupt = DeviceInterrupt::new(Box::new(BellLine(bells.interrupt.clone())));
    let rings = Stepped(mem.clone());
    loop {
        let seen = bells.kick.count();
        if *bells.over.lock().unwrap() {
            return;
        }
        serve(&mut queue, &rings, &interrupt);
        // The worker's own eventfd: `notify_self` makes it readable.
        if queue.notify.read().is_err() {
            bells.kick.sleep_past(seen);
        }
    }
}

/// As the product serves.
fn good(queue: &mut DeviceQueue, rings: &Stepped, interrupt: &DeviceInterrupt) {
    let rest_wanted = || shuttle::rand::thread_rng().gen_bool(0.2);
    queue.serve_in(rings, &rings.0, interrupt, rest_wanted, |_| Ok(0)).unwrap();
}

/// Does not check the queue again after it has asked for notifications.
fn sleeps_too_early(queue: &mut DeviceQueue, rings: &Stepped, interrupt: &DeviceInterrupt) {
    queue.disable_in(rings).unwrap();
    while let Some(chain) = queue.pop_in(rings, &rings.0).unwrap() {
        queue.complete_in(rings, &[(chain.head(), 0)]).unwrap();
    }
    queue.signal_in(rings, interrupt).unwrap();
    queue.enable_in(rings).unwrap();
}

/// Looks at the driver's suppression before the used index is visible.
fn signals_too_early(queue: &mut DeviceQueue, rings: &Stepped, interrupt: &DeviceInterrupt) {
    queue.disable_in(rings).unwrap();
    loop {
        while let Some(chain) = queue.pop_in(rings, &rings.0).unwrap() {
            let before = queue.queue.next_used();
            queue.queue.set_next_used(before.wrapping_add(1));
            queue.signal_in(rings, interrupt).unwrap();
            queue.queue.set_next_used(before);
            queue.complete_in(rings, &[(chain.head(), 0)]).unwrap();
        }
        if !queue.enable_in(rings).unwrap() {
            return;
        }
    }
}

/// The driver's thread: keeps the queue full, notifies only when the device wants that, and sleeps when there is nothing
/// to send or to receive.
fn driver(bells: &Bells, mut queue: DriverQueue, event_idx: bool) {
    let (mut sent, mut received, mut free) = (0, 0, usize::from(SIZE));
    let mut pending = HashSet::new();
    while received < REQUESTS {
        let seen = bells.interrupt.count();
        if !event_idx {
            // No interrupts while it polls.
            queue.set_avail_flags(1);
            step();
        }
        loop {
            if sent < REQUESTS && free > 0 {
                pending.insert(u32::from(queue.add(&[Buffer::Readable(&[7])]).head));
                step();
                if queue.kick_wanted() {
                    step();
                    bells.kick.ring();
                }
                (sent, free) = (sent + 1, free - 1);
            } else if let Some(used) = queue.used() {
                assert!(pending.remove(&used.id), "a request came back that was not sent");
                (received, free) = (received + 1, free + 1);
            } else {
                break;
            }
            step();
        }
        if !event_idx {
            queue.set_avail_flags(0);
            step();
        }
        // Completions from before the device could see that interrupts are wanted again come without one.
        if queue.used_idx() == u16::try_from(received).unwrap() && received < REQUESTS {
            bells.interrupt.sleep_past(seen);
        }
    }
    *bells.over.lock().unwrap() = true;
    bells.kick.ring();
}

fn exchange(
    event_idx: bool,
    serve: fn(&mut DeviceQueue, &Stepped, &DeviceInterrupt),
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (ram, bells) = (TestRam::new(), Bells::default());
        let features = if event_idx { 1 << VIRTIO_RING_F_EVENT_IDX } else { 0 };
        let queue = DriverQueue::new(&ram, &Line::default().into(), SIZE, features);
        let (mem, ours, inside) = (ram.share(), queue.device_side(), bells.clone());
        let worker = shuttle::thread::spawn(move || device(&inside, &mem, ours, serve));
        driver(&bells, queue, event_idx);
        worker.join().unwrap();
    }
}

#[test]
fn no_notification_and_no_interrupt_is_lost() {
    for event_idx in [false, true] {
        shuttle::check_random(exchange(event_idx, good), SCHEDULES);
        shuttle::check_pct(exchange(event_idx, good), SCHEDULES, 3);
    }
}

/// The instrument finds what it is for.
#[test]
fn a_device_that_sleeps_or_signals_too_early_is_found() {
    for (event_idx, serve) in
        [(false, sleeps_too_early as fn(&mut DeviceQueue, &Stepped, &DeviceInterrupt)), (true, sleeps_too_early)]
            .into_iter()
            .chain([
                (true, signals_too_early as fn(&mut DeviceQueue, &Stepped, &DeviceInterrupt)),
                (false, signals_too_early),
            ])
    {
        let found = std::panic::catch_unwind(|| shuttle::check_random(exchange(event_idx, serve), 20 * SCHEDULES));
        let panic = found.expect_err("the fault is found");
        let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(message.contains("deadlock"), "{message}");
    }
}
