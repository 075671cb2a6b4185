//! Threads of the agent and their locks.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of stack of every thread but the first. Parsing JSON of bounded depth needs the most.
pub(crate) const STACK: usize = 256 << 10;

/// Starts a thread that is never joined.
///
/// # Errors
/// `EAGAIN` or `ENOMEM` if the system has no room for another thread.
pub fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_string()).stack_size(STACK).spawn(run).map(drop)
}

/// Locks `mutex`, also after another thread has panicked with the lock held: a panic ends an agent in a guest anyway,
/// and in tests the other threads go on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
