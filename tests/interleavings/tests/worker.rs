//! A driver, which notifies its device at any time, against the owner of the device's thread, who pauses, resumes, stops
//! and replaces it at any time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hutch_interleavings::session::DeviceSession;
use hutch_interleavings::sync::{EventFd, LONG_TIMEOUT};
use hutch_interleavings::worker::{pause_all, stop_all, Next, Poller, Worker, WorkerError, WorkerHandle, WorkerSlot};
use shuttle::rand::{thread_rng, Rng};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;
use vmm_sys_util::epoll::EventSet;

/// Schedules of each scheduler per test.
const SCHEDULES: usize = 1000;
/// Requests of a schedule.
const REQUESTS: u32 = 3;
/// The timeout of an owner that may stop waiting at any moment.
const SHORT: Duration = Duration::from_secs(1000);
const NOTIFY: u64 = 7;

/// A queue of requests without contents, and what its two sides know of each other.
struct Ring {
    notify: EventFd,
    state: Mutex<State>,
    completed: Condvar,
}

#[derive(Default)]
struct State {
    sent: u32,
    served: u32,
    /// The owner was promised that no thread touches the ring.
    closed: bool,
    /// Threads that serve now.
    inside: u32,
}

impl Ring {
    fn new() -> Arc<Self> {
        Arc::new(Self { notify: EventFd::new(0).unwrap(), state: Mutex::default(), completed: Condvar::new() })
    }

    /// Sends a request, then notifies the device, as a driver does.
    fn send(&self) {
        self.state.lock().unwrap().sent += 1;
        self.notify.write(1).unwrap();
    }

    /// Waits until all of `count` requests are served: for ever if a notification is lost.
    fn wait_for(&self, count: u32) {
        let state = self.completed.wait_while(self.state.lock().unwrap(), |state| state.served < count).unwrap();
        assert!(state.served <= state.sent, "a request was served that was not sent");
    }

    fn close(&self, closed: bool) {
        self.state.lock().unwrap().closed = closed;
    }

    fn served(&self) -> u32 {
        self.state.lock().unwrap().served
    }

    /// Serves the next request. False if there is none.
    fn serve(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        assert!(!state.closed, "the device touches the ring while it must not");
        state.inside += 1;
        assert_eq!(state.inside, 1, "two threads serve one ring");
        drop(state);
        thread::yield_now();
        let mut state = self.state.lock().unwrap();
        assert!(!state.closed, "the device touches the ring while it must not");
        state.inside -= 1;
        if state.sent == state.served {
            return false;
        }
        state.served += 1;
        drop(state);
        self.completed.notify_all();
        true
    }
}

/// A device's thread. Its panics must be the test's: `worker` catches them.
struct Server {
    ring: Arc<Ring>,
    session: DeviceSession,
    served: u32,
    /// The number of requests after which it retires.
    life: u32,
    /// It forgets a notification that comes while it serves: a mistake.
    forgetful: bool,
}

impl Server {
    fn new(ring: &Arc<Ring>) -> Self {
        let (ring, session) = (ring.clone(), DeviceSession::new());
        Self { ring, session, served: 0, life: u32::MAX, forgetful: false }
    }

    fn serve(&mut self, poller: &Poller) -> Next {
        loop {
            // As `DeviceQueue` does.
            let Some(_live) = self.session.enter() else { return Next::Continue };
            if !self.ring.serve() {
                return Next::Continue;
            }
            self.served += 1;
            if self.served >= self.life {
                return Next::Retire;
            }
            if poller.rest_wanted() {
                self.ring.notify.write(1).unwrap();
                return Next::Continue;
            }
        }
    }
}

impl Worker for Server {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.ring.notify, NOTIFY, EventSet::IN)
    }

    fn resumed(&mut self, poller: &Poller) -> Next {
        self.serve(poller)
    }

    fn ready(&mut self, token: u64, events: EventSet, poller: &Poller) -> Next {
        assert_eq!((token, events), (NOTIFY, EventSet::IN));
        if self.forgetful {
            let next = self.serve(poller);
            drop(self.ring.notify.read());
            return next;
        }
        drop(self.ring.notify.read());
        self.serve(poller)
    }

    fn failed(&mut self) {
        // The panic that is the cause has been printed.
        std::process::abort();
    }
}

fn spawn(server: Server, timeout: Duration) -> WorkerHandle<Server> {
    WorkerHandle::spawn(Box::new(|| ()), "server", timeout, server).unwrap()
}

/// A driver that sends all its requests. After some of them it waits for the answer, so that the next one comes while the
/// device is about to sleep.
fn driver(ring: &Arc<Ring>) -> thread::JoinHandle<()> {
    let ring = ring.clone();
    thread::spawn(move || {
        for sent in 1..=REQUESTS {
            ring.send();
            if thread_rng().gen_bool(0.5) {
                ring.wait_for(sent);
            }
        }
    })
}

fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), SCHEDULES);
    shuttle::check_pct(test, SCHEDULES, 3);
}

#[test]
fn no_notification_is_lost_and_a_paused_device_does_nothing() {
    check(|| {
        let ring = Ring::new();
        let mut handle = spawn(Server::new(&ring), LONG_TIMEOUT);
        let driver = driver(&ring);
        for _ in 0..2 {
            handle.pause().unwrap();
            ring.close(true);
            thread::yield_now();
            ring.close(false);
            handle.resume();
        }
        ring.wait_for(REQUESTS);
        driver.join().unwrap();
        assert_eq!(handle.stop().unwrap().served, REQUESTS);
    });
}

#[test]
fn a_stopped_device_does_nothing_and_its_successor_serves_the_rest() {
    check(|| {
        let ring = Ring::new();
        let mut first = spawn(Server::new(&ring), LONG_TIMEOUT);
        let driver = driver(&ring);
        let served = first.stop().unwrap().served;
        ring.close(true);
        assert_eq!(ring.served(), served);
        thread::yield_now();
        ring.close(false);
        let mut second = spawn(Server::new(&ring), LONG_TIMEOUT);
        ring.wait_for(REQUESTS);
        driver.join().unwrap();
        assert_eq!(served + second.stop().unwrap().served, REQUESTS);
    });
}

#[test]
fn a_device_that_retires_at_any_moment_pauses_resumes_and_stops() {
    check(|| {
        let ring = Ring::new();
        let mut handle = spawn(Server { life: 2, ..Server::new(&ring) }, LONG_TIMEOUT);
        let sender = ring.clone();
        let driver = thread::spawn(move || (0..REQUESTS).for_each(|_| sender.send()));
        handle.pause().unwrap();
        ring.close(true);
        thread::yield_now();
        ring.close(false);
        handle.resume();
        ring.wait_for(2);
        handle.pause().unwrap();
        assert_eq!(handle.stop().unwrap().served, 2, "it takes no request after its end");
        driver.join().unwrap();
    });
}

#[test]
fn a_pause_that_took_too_long_leaves_a_device_that_serves() {
    check(|| {
        let ring = Ring::new();
        let handle = spawn(Server::new(&ring), SHORT);
        let driver = driver(&ring);
        match handle.pause() {
            Ok(()) => {
                ring.close(true);
                thread::yield_now();
                ring.close(false);
                handle.resume();
            }
            Err(WorkerError::Stuck { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        ring.wait_for(REQUESTS);
        driver.join().unwrap();
    });
}

/// A reset whose device does not end in time: the session ends, and the next driver waits for the thread.
#[test]
fn a_thread_that_was_left_behind_touches_nothing_and_ends() {
    check(|| {
        let ring = Ring::new();
        let mut slot = WorkerSlot::with_timeout(SHORT);
        let server = Server::new(&ring);
        let session = server.session.clone();
        slot.start(Box::new(|| ()), "server", server).unwrap();
        let driver = driver(&ring);
        let result = slot.stop();
        session.end();
        ring.close(true);
        if let Err(error) = result {
            assert!(matches!(error, WorkerError::Stuck { .. }), "{error}");
            while slot.stop().is_err() {
                thread::yield_now();
            }
        }
        ring.close(false);
        slot.start(Box::new(|| ()), "server", Server::new(&ring)).unwrap();
        ring.wait_for(REQUESTS);
        driver.join().unwrap();
    });
}

#[test]
fn several_threads_pause_and_stop_together_and_none_hangs_when_one_is_late() {
    check(|| {
        let rings: Vec<_> = (0..2).map(|_| Ring::new()).collect();
        let mut handles: Vec<_> = rings.iter().map(|ring| spawn(Server::new(ring), SHORT)).collect();
        rings.iter().for_each(|ring| ring.send());
        if pause_all(&handles).is_ok() {
            rings.iter().for_each(|ring| ring.close(true));
            thread::yield_now();
            rings.iter().for_each(|ring| ring.close(false));
            handles.iter().for_each(WorkerHandle::resume);
        }
        rings.iter().for_each(|ring| ring.wait_for(1));
        while stop_all(&mut handles).is_err() {
            thread::yield_now();
        }
        rings.iter().for_each(|ring| ring.close(true));
        assert!(handles.is_empty());
    });
}

/// The instrument finds what it is for.
#[test]
fn a_device_that_forgets_a_notification_is_found() {
    let test = || {
        let ring = Ring::new();
        let handle = spawn(Server { forgetful: true, ..Server::new(&ring) }, LONG_TIMEOUT);
        let driver = driver(&ring);
        ring.wait_for(REQUESTS);
        driver.join().unwrap();
        drop(handle);
    };
    let found = std::panic::catch_unwind(|| shuttle::check_random(test, 20 * SCHEDULES));
    let panic = found.expect_err("the fault is found");
    let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(message.contains("deadlock"), "{message}");
}
