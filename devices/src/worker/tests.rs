use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const TEST_TIMEOUT: Duration = Duration::from_secs(300);
const KICK: u64 = 1;

/// Counts kicks and sends the name of each call.
struct Probe {
    kick: EventFd,
    seen: u64,
    log: Sender<&'static str>,
    on_kick: fn(u64) -> Next,
    deadline: Option<Instant>,
    failures: Arc<AtomicU32>,
}

impl Worker for Probe {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.kick, KICK, EventSet::IN)
    }

    fn resumed(&mut self, _: &Poller) -> Next {
        self.log.send("resumed").unwrap();
        Next::Continue
    }

    fn ready(&mut self, token: u64, events: EventSet, _: &Poller) -> Next {
        assert_eq!((token, events), (KICK, EventSet::IN));
        self.seen += self.kick.read().unwrap();
        let next = (self.on_kick)(self.seen);
        self.log.send("kicked").unwrap();
        next
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expired(&mut self, _: &Poller) -> Next {
        assert!(Instant::now() >= self.deadline.unwrap());
        self.deadline = None;
        self.log.send("expired").unwrap();
        Next::Continue
    }

    fn failed(&mut self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
        self.log.send("failed").unwrap();
    }
}

fn probe(on_kick: fn(u64) -> Next) -> (Probe, EventFd, Receiver<&'static str>, Arc<AtomicU32>) {
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let (log, seen) = channel();
    let failures = Arc::new(AtomicU32::new(0));
    let probe =
        Probe { kick: kick.try_clone().unwrap(), seen: 0, log, on_kick, deadline: None, failures: failures.clone() };
    (probe, kick, seen, failures)
}

fn expect(log: &Receiver<&'static str>, what: &str) {
    assert_eq!(log.recv_timeout(TEST_TIMEOUT).unwrap(), what);
}

#[test]
fn a_worker_serves_its_events_and_comes_back_when_stopped() {
    let (worker, kick, log, _) = probe(|_| Next::Continue);
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    expect(&log, "resumed");
    kick.write(3).unwrap();
    expect(&log, "kicked");
    assert_eq!(handle.stop().unwrap().seen, 3);
}

#[test]
fn a_paused_worker_does_nothing_and_checks_its_sources_when_it_resumes() {
    let (worker, kick, log, _) = probe(|_| Next::Continue);
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    expect(&log, "resumed");
    handle.pause().unwrap();
    handle.pause().unwrap();
    kick.write(1).unwrap();
    assert!(log.recv_timeout(Duration::from_millis(30)).is_err());
    handle.resume();
    expect(&log, "resumed");
    expect(&log, "kicked");
    handle.pause().unwrap();
    assert_eq!(handle.stop().unwrap().seen, 1);
}

#[test]
fn a_retired_worker_takes_no_events_but_can_be_paused_and_stopped() {
    let (worker, kick, log, failures) = probe(|_| Next::Retire);
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    expect(&log, "resumed");
    kick.write(1).unwrap();
    expect(&log, "kicked");
    kick.write(1).unwrap();
    handle.pause().unwrap();
    handle.resume();
    assert!(log.recv_timeout(Duration::from_millis(30)).is_err());
    assert_eq!(handle.stop().unwrap().seen, 1);
    assert_eq!(failures.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_is_reported_and_the_thread_can_still_be_stopped() {
    let (worker, kick, log, failures) = probe(|_| panic!("on purpose, for a test"));
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    expect(&log, "resumed");
    kick.write(1).unwrap();
    expect(&log, "failed");
    handle.pause().unwrap();
    handle.resume();
    assert!(matches!(handle.stop(), Err(WorkerError::Panicked(name)) if name == "probe"));
    assert_eq!(failures.load(Ordering::SeqCst), 1);
}

#[test]
fn a_deadline_wakes_the_worker_once() {
    let (mut worker, _kick, log, _) = probe(|_| Next::Continue);
    worker.deadline = Some(Instant::now() + Duration::from_millis(5));
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    expect(&log, "resumed");
    expect(&log, "expired");
    assert!(log.recv_timeout(Duration::from_millis(20)).is_err());
    handle.stop().unwrap();
}

#[test]
fn dropping_the_handle_ends_the_thread() {
    let (worker, _kick, log, _) = probe(|_| Next::Continue);
    drop(WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap());
    // The worker and with it the sender are gone.
    while log.recv_timeout(TEST_TIMEOUT).is_ok() {}
    assert_eq!(log.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}

#[test]
fn pause_and_resume_in_quick_succession_end_in_the_last_state_wanted() {
    let (worker, kick, log, _) = probe(|_| Next::Continue);
    let mut handle = WorkerHandle::spawn(Box::new(|| ()), "probe", TEST_TIMEOUT, worker).unwrap();
    for _ in 0..200 {
        handle.pause().unwrap();
        handle.resume();
    }
    kick.write(1).unwrap();
    while log.recv_timeout(TEST_TIMEOUT).unwrap() != "kicked" {}
    assert_eq!(handle.stop().unwrap().seen, 1);
}

#[test]
fn a_failed_registration_is_the_callers_error() {
    struct Broken;
    impl Worker for Broken {
        fn register(&mut self, _: &Poller) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn resumed(&mut self, _: &Poller) -> Next {
            unreachable!("never started")
        }
        fn ready(&mut self, _: u64, _: EventSet, _: &Poller) -> Next {
            unreachable!("never started")
        }
        fn failed(&mut self) {}
    }
    let error = WorkerHandle::spawn(Box::new(|| ()), "broken", TEST_TIMEOUT, Broken).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}
