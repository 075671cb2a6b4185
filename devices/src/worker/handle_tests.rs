//! Workers that do not come to rest in time.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Barrier;

use super::*;
use crate::worker::Next;

const TEST_TIMEOUT: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_millis(20);
const KICK: u64 = 1;

/// Serves each kick until it gets a word from the test.
struct Sleeper {
    kick: EventFd,
    begun: Sender<()>,
    release: Receiver<()>,
}

impl Worker for Sleeper {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.kick, KICK, EventSet::IN)
    }

    fn resumed(&mut self, _: &Poller) -> Next {
        Next::Continue
    }

    fn ready(&mut self, _: u64, _: EventSet, _: &Poller) -> Next {
        self.kick.read().unwrap();
        self.begun.send(()).unwrap();
        self.release.recv().unwrap();
        Next::Continue
    }

    fn failed(&mut self) {}
}

struct Asleep {
    handle: WorkerHandle<Sleeper>,
    kick: EventFd,
    begun: Receiver<()>,
    release: Sender<()>,
}

/// A worker in the middle of its work.
fn asleep(timeout: Duration) -> Asleep {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let ((begin, begun), (release, wait)) = (channel(), channel());
    let sleeper = Sleeper { kick: kick.try_clone().unwrap(), begun: begin, release: wait };
    let handle = WorkerHandle::spawn(Box::new(|| ()), "sleeper", timeout, sleeper).unwrap();
    kick.write(1).unwrap();
    begun.recv_timeout(TEST_TIMEOUT).unwrap();
    Asleep { handle, kick, begun, release }
}

/// Calls `done` until it is true.
fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TEST_TIMEOUT);
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_that_cannot_pause_in_time_goes_on() {
    let Asleep { mut handle, kick, begun, release } = asleep(SHORT);
    let error = handle.pause().unwrap_err();
    assert!(error.to_string().contains("sleeper did not come to rest within 20ms"), "{error}");
    release.send(()).unwrap();
    kick.write(1).unwrap();
    begun.recv_timeout(TEST_TIMEOUT).unwrap();
    release.send(()).unwrap();
    handle.timeout = TEST_TIMEOUT;
    handle.stop().unwrap();
}

#[test]
fn a_worker_that_does_not_stop_in_time_is_left_behind_and_found_again() {
    let Asleep { handle, kick, begun, release } = asleep(SHORT);
    let mut slot = WorkerSlot { handle: Some(handle), timeout: SHORT };
    assert!(matches!(slot.stop(), Err(WorkerError::Stuck { .. })));
    // Later calls do not wait.
    slot.handle.as_mut().unwrap().timeout = TEST_TIMEOUT * 1000;
    assert!(matches!(slot.stop(), Err(WorkerError::Stuck { .. })));
    // Another worker cannot start beside it.
    let Asleep { handle: other, release: end_other, .. } = asleep(TEST_TIMEOUT);
    end_other.send(()).unwrap();
    let mut other = other;
    assert!(slot.start(Box::new(|| ()), "second", other.stop().unwrap()).is_err());
    kick.write(1).unwrap();
    release.send(()).unwrap();
    wait_until(|| slot.stop().is_ok());
    assert!(slot.stop().unwrap().is_none(), "the slot is empty");
    assert!(begun.try_recv().is_err(), "it served nothing after the stop");
}

/// Works until it is asked to rest, then waits until all of its kind have been asked.
struct Mate(Sender<()>, Arc<Barrier>);

impl Worker for Mate {
    fn register(&mut self, _: &Poller) -> io::Result<()> {
        Ok(())
    }

    fn resumed(&mut self, poller: &Poller) -> Next {
        self.0.send(()).unwrap();
        while !poller.rest_wanted() {
            std::thread::yield_now();
        }
        self.1.wait();
        Next::Continue
    }

    fn ready(&mut self, _: u64, _: EventSet, _: &Poller) -> Next {
        unreachable!("no descriptors")
    }

    fn failed(&mut self) {}
}

/// The device's wait is as long as that for the slowest worker, not the sum.
#[test]
fn workers_are_asked_together_and_see_it_in_the_middle_of_a_batch() {
    const COUNT: usize = 4;
    let barrier = Arc::new(Barrier::new(COUNT));
    let (begin, begun) = channel();
    let mut handles: Vec<_> = (0..COUNT)
        .map(|_| {
            WorkerHandle::spawn(Box::new(|| ()), "mate", TEST_TIMEOUT, Mate(begin.clone(), barrier.clone())).unwrap()
        })
        .collect();
    let at_work = || (0..COUNT).for_each(|_| begun.recv_timeout(TEST_TIMEOUT).unwrap());
    for _ in 0..3 {
        at_work();
        pause_all(&handles).unwrap();
        handles.iter().for_each(WorkerHandle::resume);
    }
    at_work();
    stop_all(&mut handles).unwrap();
    assert!(handles.is_empty());
}

#[test]
fn one_stuck_worker_keeps_the_others_from_a_pause_but_not_from_their_end() {
    let sleepers: Vec<_> = (0..3).map(|_| asleep(SHORT)).collect();
    let mut releases = Vec::new();
    let mut handles = Vec::new();
    for Asleep { handle, release, begun, kick } in sleepers {
        handles.push(handle);
        releases.push((release, begun, kick));
    }
    assert!(matches!(pause_all(&handles), Err(WorkerError::Stuck { .. })));
    assert!(handles.iter().all(|handle| handle.shared.lock().0 == Wanted::Run));
    for (index, (release, ..)) in releases.iter().enumerate().skip(1) {
        release.send(()).unwrap();
        handles[index].timeout = TEST_TIMEOUT;
    }
    assert!(matches!(stop_all(&mut handles), Err(WorkerError::Stuck { .. })));
    assert_eq!(handles.len(), 1);
    releases[0].0.send(()).unwrap();
    wait_until(|| stop_all(&mut handles).is_ok());
    assert!(handles.is_empty());
}
