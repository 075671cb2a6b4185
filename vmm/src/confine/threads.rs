//! The thread that makes the machine's threads: `maker`. The builder starts it before any other, when all devices are open.
//!
//! ```text
//!   builder ── starts ──▶ maker (union of these filters) ── makes ──▶ vCPUs, devices' threads, …: each with its own filter
//!   vCPU: the driver activates a device ── job ──▶ maker: opens, makes threads ── done ──▶ vCPU goes on
//! ```
//!
//! A vCPU waits for its job, as it did when it did the work itself. Without confinement there is no such thread: each job
//! is done by its caller.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hutch_devices::threads::{Job, ThreadHost, ThreadKind, ThreadStart, Threads};

use super::capabilities::{CapabilitySet, IMAGES};
use super::identity::{self, Kept};
use super::report::JailReport;
use super::root::RootShare;
use super::seccomp::{self, Kind};
use super::Confinement;
use crate::sync::lock;

/// Stack in bytes: devices are activated there. Only the used part takes memory.
const STACK_SIZE: usize = 512 << 10;

/// The rules for a machine's threads, with the thread that makes them. Dropping the last one of the machine ends it.
pub(crate) struct MachineThreads {
    host: Arc<Host>,
    maker: Option<JoinHandle<()>>,
}

/// The rules, as threads and devices have them.
#[derive(Clone)]
pub(crate) struct ThreadRules(Arc<Host>);

struct Host {
    confined: bool,
    /// The machine has file servers.
    shares: bool,
    /// The user that all threads take on, or why there is none.
    identity: Result<u32, Kept>,
    outcome: Arc<Outcome>,
    /// Whether the threads have filters of system calls.
    filtered: bool,
    /// `None`: jobs are done by their callers.
    jobs: Mutex<Option<Sender<Job>>>,
}

/// The part of the rules that the kernel accepted, for [`MachineThreads::report`].
#[derive(Default)]
struct Outcome {
    /// Version of Landlock; 0 without.
    landlock: AtomicU32,
    /// The threads are of the user of their own.
    identity: AtomicBool,
    /// The `maker`'s capabilities, of which all others have a part.
    capabilities: Mutex<CapabilitySet>,
}

impl MachineThreads {
    /// The rules that `confinement` asks for, as far as the kernel can, for a machine with shares or without. Until
    /// [`Self::start`], jobs are done by their callers.
    pub(crate) fn new(confinement: Confinement, shares: bool) -> Self {
        let confined = confinement.confines_threads();
        let filtered = confined && is_supported();
        let identity = if confined { identity::choose(shares) } else { Err(Kept::NotRoot) };
        let host = Host { confined, shares, identity, outcome: Arc::default(), filtered, jobs: Mutex::new(None) };
        Self { host: Arc::new(host), maker: None }
    }

    /// Lets the calling thread, and those that it makes from now on, open the files of these shares only.
    pub(crate) fn reach_only(&self, shares: &[RootShare]) {
        self.host.outcome.reach_only(shares);
    }

    /// Leaves the calling thread what it needs for loading the guest's images: the machine's own user, if it has one, and the
    /// capability for leases on them. Called after [`Self::start`]: the `maker` has more.
    pub(crate) fn limit_builder(&self) {
        if let Ok(id) = self.host.identity {
            super::take_identity(id, true);
        }
        super::keep_only(IMAGES);
    }

    /// The layers that hold, once the `maker` has done a job; `None` without rules.
    pub(crate) fn report(&self) -> Option<JailReport> {
        let Host { confined, identity, outcome, filtered, .. } = &*self.host;
        let taken = |id| if outcome.identity.load(Ordering::Acquire) { Ok(id) } else { Err(Kept::Refused) };
        confined.then(|| JailReport {
            seccomp: *filtered,
            landlock: Some(outcome.landlock.load(Ordering::Acquire)).filter(|version| *version > 0),
            private_root: false,
            namespaces: Vec::new(),
            identity: identity.and_then(taken),
            capabilities: *lock(&outcome.capabilities),
        })
    }

    /// Starts the thread, if there are rules. It inherits what the caller may do at this moment, and reaches only
    /// `shares` by path, if any are given.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn start(&mut self, shares: Option<Vec<RootShare>>) -> io::Result<()> {
        if !self.are_confined() {
            return Ok(());
        }
        seccomp::prepare_process()?;
        let (sender, jobs) = mpsc::channel();
        let start = self.host.start_of(Kind::Maker);
        let (outcome, identity) = (self.host.outcome.clone(), self.host.identity);
        let maker = std::thread::Builder::new().name("maker".into()).stack_size(STACK_SIZE).spawn(move || {
            // Before its filter, which does not allow it.
            if let Some(shares) = shares {
                outcome.reach_only(&shares);
            }
            if let Ok(id) = identity {
                outcome.identity.store(super::take_identity(id, true), Ordering::Release);
            }
            start();
            work(&jobs);
        })?;
        *lock(&self.host.jobs) = Some(sender);
        self.maker = Some(maker);
        Ok(())
    }

    /// Whether the machine's threads are confined.
    pub(crate) fn are_confined(&self) -> bool {
        self.host.confined
    }

    /// Confines the calling thread as one of this kind.
    pub(crate) fn enter(&self, kind: Kind) {
        self.host.start_of(kind)();
    }

    /// The rules.
    pub(crate) fn rules(&self) -> ThreadRules {
        ThreadRules(self.host.clone())
    }
}

impl Drop for MachineThreads {
    fn drop(&mut self) {
        // From now on callers do their jobs themselves: only the machine's owner is left.
        lock(&self.host.jobs).take();
        if self.maker.take().is_some_and(|maker| maker.join().is_err()) {
            log::error!("the thread that makes the machine's threads has panicked");
        }
    }
}

/// The thread's body. Jobs catch their panics.
fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job();
    }
}

fn is_supported() -> bool {
    match seccomp::check_support() {
        Ok(()) => true,
        Err(error) => {
            log::warn!(
                "this kernel has no seccomp filters ({error}): the machine's threads may make every system call"
            );
            false
        }
    }
}

impl ThreadRules {
    /// For devices.
    pub(crate) fn threads(&self) -> Threads {
        Threads::new(self.0.clone())
    }

    /// Returns what a new thread of this kind has to call first. Called on the thread that makes it.
    pub(crate) fn start(&self, kind: Kind) -> ThreadStart {
        self.0.start_of(kind)
    }

    /// Does `job` where threads may be made, and returns its result.
    pub(crate) fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.threads().call(job)
    }
}

impl std::fmt::Debug for ThreadRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadRules").field("confined", &self.0.confined).finish()
    }
}

/// No confinement, for machines and tests without.
impl Default for ThreadRules {
    fn default() -> Self {
        Self(MachineThreads::new(Confinement::None, false).host.clone())
    }
}

impl Outcome {
    fn reach_only(&self, shares: &[RootShare]) {
        self.landlock.store(super::reach_only(shares).unwrap_or_default(), Ordering::Release);
    }
}

impl Host {
    fn start_of(&self, kind: Kind) -> ThreadStart {
        if !self.confined {
            return Box::new(|| ());
        }
        let filter = self.filtered.then(|| seccomp::start(kind));
        let (keep, outcome) = (CapabilitySet::of(kind, self.shares), self.outcome.clone());
        Box::new(move || {
            // Before the filter, which may not allow it.
            let kept = super::keep_only(keep);
            if kind == Kind::Maker {
                *lock(&outcome.capabilities) = kept;
            }
            if let Some(filter) = filter {
                filter();
            }
        })
    }
}

impl ThreadHost for Host {
    fn start(&self, kind: ThreadKind) -> ThreadStart {
        self.start_of(Kind::Device(kind))
    }

    fn call(&self, job: Job) {
        let rejected = match lock(&self.jobs).as_ref() {
            // The maker's own jobs have no one else to do them.
            Some(jobs) if !seccomp::is_here(Kind::Maker) => jobs.send(job).err().map(|error| error.0),
            _ => Some(job),
        };
        // Not under the lock.
        if let Some(job) = rejected {
            job();
        }
    }
}
