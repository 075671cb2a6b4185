//! Device threads. A [`Worker`] is the thread's side: it owns the device's state and handles events of its file
//! descriptors. A [`WorkerHandle`] is the device's side: it pauses, resumes and stops the thread, and gets the state
//! back.
//!
//! ```text
//!   spawn ──▶ running ◀──resume── paused
//!               │  └────pause──────▲ │
//!               │ Next::Retire       │
//!               ▼                    │
//!            retired (no events)     │
//!               │                    │
//!               └───────stop─────────┴──▶ ended, state given back
//! ```
//!
//! A worker waits in `epoll_wait` only, so an idle one sleeps. A device waits for its worker at most [`STOP_TIMEOUT`].
//! After a pause that took longer the worker goes on. After a stop that took longer the thread is left behind: it ends
//! as soon as the host answers it, and until then its device cannot start again.

mod handle;
#[cfg(any(test, feature = "testing"))]
pub mod inline;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Epoll, EventFd, Mutex, MutexGuard};

pub use handle::{pause_all, stop_all, WorkerError, WorkerHandle, WorkerSlot};

/// Longest time that `pause` and `stop` wait for a worker to come to rest, unless a device chooses another. Reading from
/// a slow disk may take long.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Most events that one system call returns.
const EVENTS: usize = 16;
/// Token of the thread's own eventfd; the tokens of workers are smaller.
const CONTROL: u64 = u64::MAX;

/// The state of a worker after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It wants more events.
    Continue,
    /// It takes no more events until it is stopped: the driver broke the protocol, or the backend is gone.
    Retire,
}

/// A device's work on a thread of its own.
pub trait Worker: Send + 'static {
    /// Adds the file descriptors to wait for. Called once, on the caller's thread, before the worker's thread starts;
    /// after an error it does not start.
    fn register(&mut self, poller: &Poller) -> io::Result<()>;

    /// Checks every source once. Called when the thread starts and after each pause, because a notification may have
    /// come before.
    fn resumed(&mut self, poller: &Poller) -> Next;

    /// The file descriptor registered with `token` has one of `events`. The report may be stale. Must return soon, so
    /// that the thread sees a stop: a long job is cut into batches, and the file descriptor stays readable in between.
    fn ready(&mut self, token: u64, events: EventSet, poller: &Poller) -> Next;

    /// The time at which to call [`Self::expired`]. Asked before each wait.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Called when the deadline has passed.
    fn expired(&mut self, _poller: &Poller) -> Next {
        Next::Continue
    }

    /// The worker panicked or could not wait any more. This has been logged and the worker is retired; a device asks
    /// its driver for a reset here.
    fn failed(&mut self);
}

/// The file descriptors that a worker waits for, and whether it must pause or stop.
pub struct Poller {
    epoll: Epoll,
    shared: Arc<Shared>,
}

impl Poller {
    fn new(shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, shared })
    }

    /// Whether the worker has to pause or to stop. A worker with a batch of long jobs asks after each one, and leaves
    /// the others for later.
    pub fn rest_wanted(&self) -> bool {
        self.shared.rest_wanted.load(Ordering::SeqCst)
    }

    /// Waits for `events` of `fd` from now on, and reports them as `token` (any but `u64::MAX`). Fails with
    /// `AlreadyExists` if `fd` was added before.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), token, events)
    }

    /// Waits for other `events` of an `fd` that was added.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd.as_raw_fd(), token, events)
    }

    /// Removes `fd`. Needed before `fd` is closed if a duplicate of it stays open.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd.as_raw_fd(), 0, EventSet::empty())
    }

    fn control(&self, operation: ControlOperation, fd: RawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(operation, fd, EpollEvent::new(events, token))
    }

    /// Waits for an event until `deadline`. An interrupted wait returns without events.
    fn wait(&self, deadline: Option<Instant>, events: &mut [EpollEvent]) -> io::Result<usize> {
        match self.epoll.wait(timeout_ms(deadline), events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}

/// Timeout for `epoll_wait`, -1 without a deadline. Rounded up, so that a wait that times out has reached the deadline.
fn timeout_ms(deadline: Option<Instant>) -> i32 {
    deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now()).as_nanos();
        i32::try_from(left.div_ceil(1_000_000)).unwrap_or(i32::MAX)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Paused,
    Ended,
}

struct Shared {
    state: Mutex<(Wanted, Phase)>,
    changed: Condvar,
    control: EventFd,
    /// Anything but [`Wanted::Run`] is wanted. Read without the lock.
    rest_wanted: AtomicBool,
    /// The worker has no thread (`inline`).
    #[cfg(any(test, feature = "testing"))]
    inline: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Wanted, Phase)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the worker for a change of state.
    fn want(&self, wanted: Wanted) {
        let mut state = self.lock();
        state.0 = wanted;
        #[cfg(any(test, feature = "testing"))]
        if self.inline {
            state.1 = inline::phase(wanted);
        }
        self.rest_wanted.store(wanted != Wanted::Run, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
        if let Err(error) = self.control.write(1) {
            // Only a full counter refuses a write, and a full counter wakes the worker too.
            log::debug!("control event of a device thread: {error}");
        }
    }

    /// True if `reached` holds for the phase before `timeout` has passed since `start`.
    fn wait_for(&self, start: Instant, timeout: Duration, reached: impl Fn(Phase) -> bool) -> bool {
        let left = timeout.saturating_sub(start.elapsed());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), left, |state| !reached(state.1))
            .unwrap_or_else(PoisonError::into_inner);
        reached(state.1)
    }

    fn enter(&self, phase: Phase) {
        self.lock().1 = phase;
        self.changed.notify_all();
    }
}

/// Marks the thread as ended on every way out of it, a panic in `failed` included.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

/// The body of the thread. The flag is false if the worker panicked, which may have left its state broken. Release builds
/// abort on a panic, which ends the machine: catching it is for debug builds and tests, which unwind.
fn run<W: Worker>(name: &str, mut worker: W, poller: &Poller, shared: &Shared) -> (W, bool) {
    let _ended = Ended(shared);
    let result = catch_unwind(AssertUnwindSafe(|| serve(&mut worker, poller, shared)));
    let sound = result.is_ok();
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("cannot wait for events: {error}")),
        Err(panic) => Some(format!("panicked: {}", panic_message(panic.as_ref()))),
    };
    if let Some(failure) = failure {
        log::error!("device thread {name} {failure}");
        worker.failed();
        rest(shared, true);
    }
    (worker, sound)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Handles events until the worker is stopped.
fn serve(worker: &mut impl Worker, poller: &Poller, shared: &Shared) -> io::Result<()> {
    let mut events = [EpollEvent::default(); EVENTS];
    let mut next = worker.resumed(poller);
    loop {
        if next == Next::Retire {
            rest(shared, true);
            return Ok(());
        }
        let count = poller.wait(worker.deadline(), &mut events)?;
        for event in events.iter().take(count) {
            let control = event.data() == CONTROL;
            if control {
                // It may have been read already: two requests can share one event.
                drop(shared.control.read());
            }
            // Before every event: the one of the control descriptor may come last.
            if control || poller.rest_wanted() {
                match rest(shared, false) {
                    Rest::Stop => return Ok(()),
                    // The other events of this wait follow. After a pause they are stale, which a worker must expect.
                    Rest::Resume => next = worker.resumed(poller),
                    Rest::None => {}
                }
            }
            if !control && next == Next::Continue {
                next = worker.ready(event.data(), EventSet::from_bits_truncate(event.events()), poller);
            }
            if next == Next::Retire {
                break;
            }
        }
        if next == Next::Continue && worker.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            next = worker.expired(poller);
        }
    }
}

/// The result of [`rest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// No pause was wanted.
    None,
    /// There was a pause, which is over.
    Resume,
    Stop,
}

/// Sleeps while a pause is wanted; a retired worker sleeps until it is stopped.
fn rest(shared: &Shared, retired: bool) -> Rest {
    let mut result = Rest::None;
    let mut state = shared.lock();
    loop {
        match state.0 {
            Wanted::Stop => return Rest::Stop,
            Wanted::Run if !retired => {
                state.1 = Phase::Running;
                return result;
            }
            Wanted::Run | Wanted::Pause => {}
        }
        result = Rest::Resume;
        state.1 = Phase::Paused;
        shared.changed.notify_all();
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests;
