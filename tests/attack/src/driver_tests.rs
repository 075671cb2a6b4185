//! The checks of the mock driver fail when a device breaks its contract.

use std::io;

use hutch_devices::virtio::rng::Rng;
use hutch_devices::virtio::{ActivateError, Activation, DeviceQueue};
use hutch_devices::worker::{Next, Poller, Worker, WorkerError, WorkerSlot};
use vmm_sys_util::epoll::EventSet;

use super::*;

/// Sends one buffer of 100 bytes for the device to write.
struct Buffers;

impl Device for Buffers {
    fn request(&mut self, _script: &mut Script<'_>) -> (u16, Vec<Part>) {
        (0, vec![Part::Write(100)])
    }
}

/// The rule that a bad device breaks at each request.
#[derive(Clone, Copy)]
enum Fault {
    /// Reports more bytes than there is room for.
    Long,
    /// Completes it twice.
    Twice,
    /// Writes outside of its buffers.
    Outside,
    /// Never comes to rest.
    Restless,
}

struct Bad(Fault, WorkerSlot<BadWorker>);

struct BadWorker(Fault, DeviceQueue, GuestRam);

impl Worker for BadWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.1.notify, 0, EventSet::IN)
    }

    fn resumed(&mut self, _poller: &Poller) -> Next {
        Next::Continue
    }

    fn ready(&mut self, _token: u64, _events: EventSet, _poller: &Poller) -> Next {
        let Self(fault, queue, ram) = self;
        if !matches!(fault, Fault::Restless) {
            queue.drain_notify();
        }
        while let Some(chain) = queue.pop(ram).unwrap() {
            let written = if matches!(fault, Fault::Long) { 101 } else { 0 };
            queue.complete(ram, chain.head(), written).unwrap();
            if matches!(fault, Fault::Twice) {
                queue.complete(ram, chain.head(), 0).unwrap();
            }
            if matches!(fault, Fault::Outside) {
                ram.write_slice(&[1], GuestAddress(CANARY + 7)).unwrap();
            }
        }
        Next::Continue
    }

    fn failed(&mut self) {}
}

impl VirtioDevice for Bad {
    fn device_type(&self) -> u32 {
        4
    }

    fn name(&self) -> &str {
        "bad"
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().flatten().next().unwrap();
        self.1.start(Box::new(|| ()), "bad", BadWorker(self.0, queue, activation.mem)).unwrap();
        Ok(())
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        self.1.stop().map(drop)
    }
}

fn run_device(device: Box<dyn VirtioDevice>) -> usize {
    // Features, and three requests that are notified and settled.
    run(device, memory(), &mut Buffers, &mut Script::new(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0]))
}

fn run_bad(fault: Fault) -> usize {
    run_device(Box::new(Bad(fault, WorkerSlot::new())))
}

#[test]
fn requests_in_good_form_are_completed() {
    assert_eq!(run_device(Box::new(Rng::new("rng"))), 3);
}

#[test]
#[should_panic(expected = "101 bytes reported in a buffer of 100")]
fn a_report_of_too_many_bytes_is_noticed() {
    run_bad(Fault::Long);
}

#[test]
#[should_panic(expected = "completes a request once")]
fn a_request_that_is_completed_twice_is_noticed() {
    run_bad(Fault::Twice);
}

#[test]
#[should_panic(expected = "outside of its buffers")]
fn a_write_outside_of_the_buffers_is_noticed() {
    run_bad(Fault::Outside);
}

#[test]
#[should_panic(expected = "goes on working")]
fn a_device_that_never_rests_is_noticed() {
    run_bad(Fault::Restless);
}
