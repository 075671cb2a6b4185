//! Workers without threads, for tests that repeat the same steps exactly and many times a second.
//!
//! After a thread has called [`enter`], the workers that it spawns get no threads of their own: [`run_pending`] runs
//! them on this one. A panic of such a worker is a panic of the caller.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use vmm_sys_util::epoll::{EpollEvent, EventSet};

use super::{Next, Phase, Poller, Shared, Wanted, Worker, CONTROL, EVENTS};

thread_local! {
    /// The workers of this thread; `None` before [`enter`].
    static WORKERS: RefCell<Option<Vec<Weak<dyn Step>>>> = const { RefCell::new(None) };
}

/// From now on, the workers that this thread spawns run on it.
pub fn enter() {
    WORKERS.with_borrow_mut(|workers| {
        workers.get_or_insert_default();
    });
}

/// Lets each worker of this thread handle what is ready now. True if one of them had work.
pub fn run_pending() -> bool {
    let workers: Vec<Arc<dyn Step>> = WORKERS.with_borrow_mut(|workers| {
        let workers = workers.get_or_insert_default();
        workers.retain(|worker| worker.strong_count() > 0);
        workers.iter().filter_map(Weak::upgrade).collect()
    });
    // All of them, one after the other.
    workers.iter().filter(|worker| worker.step()).count() > 0
}

/// Whether the workers that this thread spawns run on it.
pub(super) fn is_entered() -> bool {
    WORKERS.with_borrow(Option::is_some)
}

/// A worker of any type.
trait Step {
    /// Handles what is ready. True if there was work.
    fn step(&self) -> bool;
}

/// A worker that runs when its thread calls [`run_pending`].
pub(super) struct InlineWorker<W> {
    shared: Arc<Shared>,
    state: Mutex<Option<State<W>>>,
}

struct State<W> {
    worker: W,
    poller: Poller,
    next: Next,
    /// [`Worker::resumed`] was called since the start or the last pause.
    running: bool,
}

impl<W: Worker> InlineWorker<W> {
    /// Adds a worker to those of this thread.
    pub(super) fn adopt(worker: W, poller: Poller, shared: Arc<Shared>) -> Arc<Self> {
        let state = State { worker, poller, next: Next::Continue, running: false };
        let this = Arc::new(Self { shared, state: Mutex::new(Some(state)) });
        let entry: Arc<dyn Step> = this.clone();
        WORKERS.with_borrow_mut(|workers| workers.get_or_insert_default().push(Arc::downgrade(&entry)));
        this
    }
}

impl<W> InlineWorker<W> {
    fn lock(&self) -> MutexGuard<'_, Option<State<W>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the worker back.
    pub(super) fn take(&self) -> Option<W> {
        self.lock().take().map(|state| state.worker)
    }
}

impl<W: Worker> Step for InlineWorker<W> {
    fn step(&self) -> bool {
        let mut state = self.lock();
        let Some(State { worker, poller, next, running }) = state.as_mut() else { return false };
        if self.shared.lock().0 != Wanted::Run {
            *running = false;
            return false;
        }
        if *next == Next::Retire {
            return false;
        }
        if !std::mem::replace(running, true) {
            *next = worker.resumed(poller);
            return true;
        }
        let mut events = [EpollEvent::default(); EVENTS];
        let count = poller.wait(Some(Instant::now()), &mut events).expect("an epoll of a test");
        for event in events.iter().take(count) {
            if event.data() == CONTROL {
                drop(self.shared.control.read());
            } else if *next == Next::Continue {
                *next = worker.ready(event.data(), EventSet::from_bits_truncate(event.events()), poller);
            }
        }
        if *next == Next::Continue && worker.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            *next = worker.expired(poller);
        }
        count > 0
    }
}

/// The phase of a worker without a thread as soon as another one is wanted: it is at rest between two steps.
pub(super) fn phase(wanted: Wanted) -> Phase {
    match wanted {
        Wanted::Run => Phase::Running,
        Wanted::Pause => Phase::Paused,
        Wanted::Stop => Phase::Ended,
    }
}
