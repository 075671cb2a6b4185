//! The device's side of a worker: starts, pauses, resumes and stops its thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

#[cfg(any(test, feature = "testing"))]
use super::inline::{self, InlineWorker};
use super::{run, Phase, Poller, Shared, Wanted, Worker, CONTROL, STOP_TIMEOUT};
use crate::sync::atomic::AtomicBool;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, EventFd, Mutex};
use crate::threads::ThreadStart;

/// Linux's limit for a thread's name.
const NAME_MAX: usize = 15;

/// A worker that did not come to rest, or whose state did not come back.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// One operation takes longer than the timeout.
    #[error("device thread {name} did not come to rest within {timeout:?}: a host file or device does not answer; check the storage behind it")]
    Stuck {
        /// The thread's name.
        name: String,
        /// The time that the device has waited.
        timeout: Duration,
    },
    /// The worker panicked.
    #[error("device thread {0} panicked")]
    Panicked(String),
}

/// The device's side of a worker. Dropping it stops the worker and drops its state.
pub struct WorkerHandle<W> {
    name: String,
    timeout: Duration,
    shared: Arc<Shared>,
    body: Option<Body<W>>,
    /// A stop has waited in vain. The thread ends when it can.
    left_behind: bool,
}

/// Where a worker runs.
enum Body<W> {
    Thread(JoinHandle<(W, bool)>),
    #[cfg(any(test, feature = "testing"))]
    Inline(Arc<InlineWorker<W>>),
}

impl<W> Body<W> {
    /// Waits for the end, and gives the worker back unless it panicked.
    fn join(self) -> Option<W> {
        match self {
            Self::Thread(thread) => thread.join().ok().and_then(|(worker, sound)| sound.then_some(worker)),
            #[cfg(any(test, feature = "testing"))]
            Self::Inline(worker) => worker.take(),
        }
    }
}

impl<W: Worker> WorkerHandle<W> {
    /// Starts `worker` on a thread called `name` (cut to 15 bytes), for which `pause` and `stop` wait as long as
    /// `timeout`. The thread calls `start` first. It inherits the caller's signal mask.
    pub fn spawn(start: ThreadStart, name: &str, timeout: Duration, mut worker: W) -> io::Result<Self> {
        let control = EventFd::new(EFD_NONBLOCK)?;
        let shared = Arc::new(Shared {
            state: Mutex::new((Wanted::Run, Phase::Running)),
            changed: Condvar::new(),
            control,
            rest_wanted: AtomicBool::new(false),
            #[cfg(any(test, feature = "testing"))]
            inline: inline::is_entered(),
        });
        let poller = Poller::new(shared.clone())?;
        poller.add(&shared.control, CONTROL, EventSet::IN)?;
        worker.register(&poller)?;
        let inside = shared.clone();
        #[cfg(any(test, feature = "testing"))]
        if shared.inline {
            let body = Some(Body::Inline(InlineWorker::adopt(worker, poller, inside)));
            return Ok(Self { name: name.to_owned(), timeout, shared, body, left_behind: false });
        }
        let short: String = name.chars().filter(char::is_ascii).take(NAME_MAX).collect();
        let label = name.to_owned();
        let thread = thread::Builder::new().name(short).spawn(move || {
            start();
            run(&label, worker, &poller, &inside)
        })?;
        let body = Some(Body::Thread(thread));
        Ok(Self { name: name.to_owned(), timeout, shared, body, left_behind: false })
    }

    /// Returns when the worker is idle: it touches nothing until `resume`.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: the worker was not idle in time, and goes on working.
    pub fn pause(&self) -> Result<(), WorkerError> {
        pause_all(std::slice::from_ref(self))
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.shared.want(Wanted::Run);
    }

    /// Ends the thread and gives the state back.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: the thread is left behind and ends as soon as it can. Another call does not wait, and
    /// gives the state back if the thread has ended. [`WorkerError::Panicked`]: the state is lost.
    pub fn stop(&mut self) -> Result<W, WorkerError> {
        self.shared.want(Wanted::Stop);
        self.finish(Instant::now())
    }

    /// Waits for the thread to end, which was asked for at `start`.
    fn finish(&mut self, start: Instant) -> Result<W, WorkerError> {
        let timeout = if self.left_behind { Duration::ZERO } else { self.timeout };
        if !self.shared.wait_for(start, timeout, |phase| phase == Phase::Ended) {
            self.left_behind = true;
            return Err(self.stuck());
        }
        self.body.take().and_then(Body::join).ok_or_else(|| WorkerError::Panicked(self.name.clone()))
    }
}

impl<W> WorkerHandle<W> {
    fn stuck(&self) -> WorkerError {
        WorkerError::Stuck { name: self.name.clone(), timeout: self.timeout }
    }
}

impl<W> Drop for WorkerHandle<W> {
    fn drop(&mut self) {
        if self.left_behind {
            return;
        }
        if let Some(body) = self.body.take() {
            self.shared.want(Wanted::Stop);
            if self.shared.wait_for(Instant::now(), self.timeout, |phase| phase == Phase::Ended) {
                // The thread itself has logged a panic.
                drop(body.join());
            } else {
                log::error!("{}", self.stuck());
            }
        }
    }
}

/// Pauses all of `workers`, which come to rest at the same time.
///
/// # Errors
/// [`WorkerError::Stuck`]: one of them was not idle in time. All of them go on working.
pub fn pause_all<W>(workers: &[WorkerHandle<W>]) -> Result<(), WorkerError> {
    workers.iter().for_each(|worker| worker.shared.want(Wanted::Pause));
    let start = Instant::now();
    let at_rest =
        |worker: &WorkerHandle<W>| worker.shared.wait_for(start, worker.timeout, |phase| phase != Phase::Running);
    match workers.iter().find(|worker| !at_rest(worker)) {
        None => Ok(()),
        Some(worker) => {
            workers.iter().for_each(|worker| worker.shared.want(Wanted::Run));
            Err(worker.stuck())
        }
    }
}

/// Stops all of `workers` at the same time and drops their states. Those that are stuck stay in the list: another call
/// does not wait for them, but removes those that have ended.
///
/// # Errors
/// [`WorkerError::Stuck`]: one of them is left behind.
pub fn stop_all<W: Worker>(workers: &mut Vec<WorkerHandle<W>>) -> Result<(), WorkerError> {
    workers.iter().for_each(|worker| worker.shared.want(Wanted::Stop));
    let start = Instant::now();
    let mut result = Ok(());
    workers.retain_mut(|worker| match worker.finish(start) {
        Err(error @ WorkerError::Stuck { .. }) => {
            result = Err(error);
            true
        }
        // The thread itself has logged a panic.
        Ok(_) | Err(WorkerError::Panicked(_)) => false,
    });
    result
}

/// A device's place for its worker: empty while the device is inactive.
pub struct WorkerSlot<W> {
    handle: Option<WorkerHandle<W>>,
    timeout: Duration,
}

impl<W: Worker> WorkerSlot<W> {
    /// A slot without a worker, which waits for workers as long as [`STOP_TIMEOUT`].
    pub const fn new() -> Self {
        Self::with_timeout(STOP_TIMEOUT)
    }

    /// A slot without a worker, which waits for workers as long as `timeout`.
    pub const fn with_timeout(timeout: Duration) -> Self {
        Self { handle: None, timeout }
    }

    /// Does [`WorkerHandle::spawn`], after it has stopped a worker that is in the slot. Fails if that one is stuck.
    pub fn start(&mut self, start: ThreadStart, name: &str, worker: W) -> io::Result<()> {
        self.stop().map_err(io::Error::other)?;
        self.handle = Some(WorkerHandle::spawn(start, name, self.timeout, worker)?);
        Ok(())
    }

    /// Does [`WorkerHandle::pause`] if there is a worker.
    pub fn pause(&self) -> Result<(), WorkerError> {
        self.handle.as_ref().map_or(Ok(()), WorkerHandle::pause)
    }

    /// Does [`WorkerHandle::resume`] if there is a worker.
    pub fn resume(&self) {
        if let Some(handle) = &self.handle {
            handle.resume();
        }
    }

    /// Does [`WorkerHandle::stop`]. `None` if there is no worker or it panicked.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: the worker is left behind in the slot.
    pub fn stop(&mut self) -> Result<Option<W>, WorkerError> {
        let Some(handle) = &mut self.handle else { return Ok(None) };
        let result = handle.stop();
        if let Err(error @ WorkerError::Stuck { .. }) = result {
            return Err(error);
        }
        self.handle = None;
        // The thread itself has logged a panic.
        Ok(result.ok())
    }
}

impl<W: Worker> Default for WorkerSlot<W> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
