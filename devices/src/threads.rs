//! How devices get their threads: the VMM says what each new thread does first, for example to give up system calls, and
//! where work is done that makes threads.
//!
//! A thread inherits the restrictions of the thread that makes it. A vCPU thread is restricted most, and the guest's
//! driver activates a device there. So the transport does not activate a device itself: it hands that to a thread of the
//! VMM ([`Threads::call`]) and waits.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{mpsc, Arc};

/// The work of a device's thread. The VMM restricts it to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// Serves a disk.
    Block,
    /// Gives random bytes.
    Entropy,
    /// Serves a shared directory. Such a thread makes others of its kind.
    FileServer,
    /// Plugs memory in and out.
    Memory,
    /// Moves frames between a tap interface and the guest.
    Network,
    /// Moves the bytes of vsock connections.
    Sockets,
}

impl ThreadKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Block, Self::Entropy, Self::FileServer, Self::Memory, Self::Network, Self::Sockets];
}

/// The function that a new thread calls first.
pub type ThreadStart = Box<dyn FnOnce() + Send>;

/// Work for another thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The VMM's part of [`Threads`].
pub trait ThreadHost: Send + Sync {
    /// Returns what a new thread of this kind has to call first. Called on the thread that makes it, which may prepare.
    fn start(&self, kind: ThreadKind) -> ThreadStart;

    /// Does `job`, which may make threads and open files, now or soon.
    fn call(&self, job: Job);
}

/// The VMM's rules for threads, as a device has them.
#[derive(Clone)]
pub struct Threads(Arc<dyn ThreadHost>);

impl Threads {
    /// The rules of this host.
    pub fn new(host: Arc<dyn ThreadHost>) -> Self {
        Self(host)
    }

    /// The function that a new thread of this kind has to call first.
    pub fn start(&self, kind: ThreadKind) -> ThreadStart {
        self.0.start(kind)
    }

    /// Does `job` where threads may be made, and returns its result. A panic of `job` goes on in the caller.
    ///
    /// # Panics
    /// If the VMM drops a job without doing it: a mistake of the VMM.
    pub fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::sync_channel(1);
        self.0.call(Box::new(move || {
            // The receiver waits below.
            drop(sender.send(catch_unwind(AssertUnwindSafe(job))));
        }));
        match result.recv().expect("the VMM does each job") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Threads without any rules: a new thread calls nothing first, and each job is done by its caller. For tests.
impl Default for Threads {
    fn default() -> Self {
        Self(Arc::new(Free))
    }
}

struct Free;

impl ThreadHost for Free {
    fn start(&self, _kind: ThreadKind) -> ThreadStart {
        Box::new(|| ())
    }

    fn call(&self, job: Job) {
        job();
    }
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
