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

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Longest time that `pause` and `stop` wait for a worker to come to rest. Reading from a slow disk may take long.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Most events that one system call returns.
const EVENTS: usize = 16;
/// Token of the thread's own eventfd; the tokens of workers are smaller.
const CONTROL: u64 = u64::MAX;
/// Linux's limit for a thread's name.
const NAME_MAX: usize = 15;

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

/// The file descriptors that a worker waits for.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Poller {
    fn new() -> io::Result<Self> {
        Epoll::new().map(Self)
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
        self.0.ctl(operation, fd, EpollEvent::new(events, token))
    }

    /// Waits for an event until `deadline`. An interrupted wait returns without events.
    fn wait(&self, deadline: Option<Instant>, events: &mut [EpollEvent]) -> io::Result<usize> {
        match self.0.wait(timeout_ms(deadline), events) {
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

/// A worker whose state did not come back.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// One operation takes longer than [`STOP_TIMEOUT`]; the thread is left behind.
    #[error("device thread {0} did not come to rest within {STOP_TIMEOUT:?}: a host file or device does not answer")]
    Stuck(String),
    /// The worker panicked.
    #[error("device thread {0} panicked")]
    Panicked(String),
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
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Wanted, Phase)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the worker for a change of state.
    fn want(&self, wanted: Wanted) {
        self.lock().0 = wanted;
        self.changed.notify_all();
        if let Err(error) = self.control.write(1) {
            // Only a full counter refuses a write, and a full counter wakes the worker too.
            log::debug!("control event of a device thread: {error}");
        }
    }

    /// True if `reached` holds for the phase within [`STOP_TIMEOUT`].
    fn wait_for(&self, reached: impl Fn(Phase) -> bool) -> bool {
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), STOP_TIMEOUT, |state| !reached(state.1))
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn enter(&self, phase: Phase) {
        self.lock().1 = phase;
        self.changed.notify_all();
    }
}

/// The device's side of a worker. Dropping it stops the worker and drops its state.
pub struct WorkerHandle<W> {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<(W, bool)>>,
}

impl<W: Worker> WorkerHandle<W> {
    /// Starts `worker` on a thread called `name` (cut to 15 bytes). The thread inherits the caller's signal mask.
    pub fn spawn(name: &str, mut worker: W) -> io::Result<Self> {
        let poller = Poller::new()?;
        let control = EventFd::new(EFD_NONBLOCK)?;
        poller.add(&control, CONTROL, EventSet::IN)?;
        worker.register(&poller)?;
        let shared =
            Arc::new(Shared { state: Mutex::new((Wanted::Run, Phase::Running)), changed: Condvar::new(), control });
        let inside = shared.clone();
        let short: String = name.chars().filter(char::is_ascii).take(NAME_MAX).collect();
        let label = name.to_owned();
        let thread = std::thread::Builder::new().name(short).spawn(move || run(&label, worker, &poller, &inside))?;
        Ok(Self { name: name.to_owned(), shared, thread: Some(thread) })
    }

    /// Returns when the worker is idle: it touches nothing until `resume`.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: the worker pauses as soon as it can.
    pub fn pause(&self) -> Result<(), WorkerError> {
        self.shared.want(Wanted::Pause);
        if self.shared.wait_for(|phase| phase != Phase::Running) {
            Ok(())
        } else {
            Err(WorkerError::Stuck(self.name.clone()))
        }
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.shared.want(Wanted::Run);
    }

    /// Ends the thread and gives the state back. After an error the state is lost.
    pub fn stop(mut self) -> Result<W, WorkerError> {
        self.finish().unwrap_or_else(|| Err(WorkerError::Panicked(self.name.clone())))
    }

    fn finish(&mut self) -> Option<Result<W, WorkerError>> {
        let thread = self.thread.take()?;
        self.shared.want(Wanted::Stop);
        if !self.shared.wait_for(|phase| phase == Phase::Ended) {
            return Some(Err(WorkerError::Stuck(self.name.clone())));
        }
        match thread.join() {
            Ok((worker, true)) => Some(Ok(worker)),
            Ok((_, false)) | Err(_) => Some(Err(WorkerError::Panicked(self.name.clone()))),
        }
    }
}

impl<W> Drop for WorkerHandle<W> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.want(Wanted::Stop);
            if self.shared.wait_for(|phase| phase == Phase::Ended) {
                // The thread itself has logged a panic.
                drop(thread.join());
            } else {
                log::error!("{}", WorkerError::Stuck(self.name.clone()));
            }
        }
    }
}

/// A device's place for its worker: empty while the device is inactive. It logs errors, since the calls of
/// [`VirtioDevice`](crate::virtio::VirtioDevice) cannot return them.
pub struct WorkerSlot<W>(Option<WorkerHandle<W>>);

impl<W: Worker> WorkerSlot<W> {
    /// A slot without a worker.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Does [`WorkerHandle::spawn`], after it has stopped a worker that is in the slot.
    pub fn start(&mut self, name: &str, worker: W) -> io::Result<()> {
        drop(self.stop());
        self.0 = Some(WorkerHandle::spawn(name, worker)?);
        Ok(())
    }

    /// Does [`WorkerHandle::pause`] if there is a worker.
    pub fn pause(&self) {
        if let Some(Err(error)) = self.0.as_ref().map(WorkerHandle::pause) {
            log::error!("{error}");
        }
    }

    /// Does [`WorkerHandle::resume`] if there is a worker.
    pub fn resume(&self) {
        if let Some(handle) = &self.0 {
            handle.resume();
        }
    }

    /// Does [`WorkerHandle::stop`]. `None` if there is no worker or its state is lost.
    pub fn stop(&mut self) -> Option<W> {
        self.0.take()?.stop().inspect_err(|error| log::error!("{error}")).ok()
    }
}

impl<W: Worker> Default for WorkerSlot<W> {
    fn default() -> Self {
        Self::new()
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
            next = if event.data() == CONTROL {
                // It may have been read already: two requests can share one event.
                drop(shared.control.read());
                match rest(shared, false) {
                    Rest::Stop => return Ok(()),
                    // The other events of this wait follow. After a pause they are stale, which a worker must expect.
                    Rest::Resume => worker.resumed(poller),
                    Rest::None => Next::Continue,
                }
            } else {
                worker.ready(event.data(), EventSet::from_bits_truncate(event.events()), poller)
            };
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
#[path = "worker_tests.rs"]
mod tests;
