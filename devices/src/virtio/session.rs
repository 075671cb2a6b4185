//! The time from a device's activation to its deactivation. When it is over, the rings and the interrupt belong to the
//! next driver: a worker that was left behind must not touch them.

use std::sync::{Arc, PoisonError};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The time from a device's activation to its deactivation. Clones are the same session.
#[derive(Clone, Debug, Default)]
pub struct DeviceSession(Arc<State>);

#[derive(Debug, Default)]
struct State {
    over: AtomicBool,
    /// Locked while the rings are written or the interrupt is raised. Never held while anything is waited for.
    writing: Mutex<()>,
}

/// While this lives, the session is not over.
#[must_use]
pub struct Live<'a> {
    _writing: MutexGuard<'a, ()>,
}

impl DeviceSession {
    /// A session that has begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the session. After it returns there is no [`Live`] of it, and there will be none.
    pub fn end(&self) {
        let writing = self.lock();
        self.0.over.store(true, Ordering::SeqCst);
        drop(writing);
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::SeqCst)
    }

    /// Keeps the session from ending for a moment. `None` if it is over.
    pub fn enter(&self) -> Option<Live<'_>> {
        let writing = self.lock();
        (!self.is_over()).then_some(Live { _writing: writing })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // It protects no data.
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
