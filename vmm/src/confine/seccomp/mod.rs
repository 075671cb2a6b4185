//! Filters of system calls (seccomp(2)), one for each kind of thread.
//!
//! | file | contents |
//! |---|---|
//! | `calls` | the calls of each kind, as tables |
//! | `last_act` | what such a process does before it ends |
//! | `lists` | the tables of each kind |
//! | `instruction` | instructions of a program of the kernel |
//! | `program` | from tables to such a program; the build script does that |
//! | `violation` | the end of a process that makes a forbidden call |
//!
//! A thread inherits the filters of the thread that makes it, and all of them apply. The guest's vCPU threads have the
//! narrowest one, so the threads of devices are not made there but by [`Kind::Maker`], whose filter is the union of those of
//! the machine's threads.

#[cfg(test)]
mod calls;
mod instruction;
pub mod last_act;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod program;
#[cfg(test)]
mod tests;
mod violation;

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

use hutch_devices::threads::ThreadKind;

use self::instruction::Instruction;
pub use self::violation::{label_process, VIOLATION};

/// A kind of thread, with a filter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The thread that makes the machine's threads. Its filter is the union of theirs.
    Maker,
    /// Runs the guest.
    Vcpu,
    /// A device's thread.
    Device(ThreadKind),
    /// Keeps the leases of mapped files.
    Images,
    /// Writes the console.
    Console,
    /// The first thread of a process that holds a machine, after the machine's start, and its threads: the control
    /// socket and those that wait for the guest.
    Owner,
    /// The first thread of a process that runs one command of a guest in the foreground, after the machine's start, and its
    /// threads: those that pass streams and signals on, and those that wait for the guest.
    Foreground,
    /// All threads of a process that stands for a process of a guest.
    Shim,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; KINDS] = [
        Self::Maker,
        Self::Vcpu,
        Self::Device(ThreadKind::Block),
        Self::Device(ThreadKind::Entropy),
        Self::Device(ThreadKind::FileServer),
        Self::Device(ThreadKind::Memory),
        Self::Device(ThreadKind::Network),
        Self::Device(ThreadKind::Sockets),
        Self::Images,
        Self::Console,
        Self::Owner,
        Self::Foreground,
        Self::Shim,
    ];

    fn index(self) -> usize {
        match self {
            Self::Maker => 0,
            Self::Vcpu => 1,
            Self::Device(ThreadKind::Block) => 2,
            Self::Device(ThreadKind::Entropy) => 3,
            Self::Device(ThreadKind::FileServer) => 4,
            Self::Device(ThreadKind::Memory) => 5,
            Self::Device(ThreadKind::Network) => 6,
            Self::Device(ThreadKind::Sockets) => 7,
            Self::Images => 8,
            Self::Console => 9,
            Self::Owner => 10,
            Self::Foreground => 11,
            Self::Shim => 12,
        }
    }

    /// The program, compiled when hutch was built.
    fn program(self) -> &'static [Instruction] {
        PROGRAMS.get(self.index()).copied().unwrap_or_default()
    }
}

const KINDS: usize = 13;

// `PROGRAMS`: one for each kind, in the order of their numbers.
include!(concat!(env!("OUT_DIR"), "/filters.rs"));

thread_local! {
    /// The filter that the thread has put on last.
    static HERE: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// Whether the calling thread is of this kind.
pub(super) fn is_here(kind: Kind) -> bool {
    HERE.get() == Some(kind)
}

/// Whether this kernel has what the filters need.
///
/// # Errors
/// The kernel's answer, such as `ENOSYS` or `EINVAL` without CONFIG_SECCOMP_FILTER.
pub fn check_support() -> io::Result<()> {
    violation::action_available()
}

/// Lets a forbidden call end this process with a message, instead of silently. For the whole process; done once.
///
/// # Errors
/// The kernel refused the signal's handler.
pub fn prepare_process() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| violation::install_handler().map_err(|error| error.raw_os_error().unwrap_or(0)))
        .map_err(io::Error::from_raw_os_error)
}

/// Returns what a new thread of this kind calls first. Called on the thread that makes it.
///
/// # Panics
/// The result does if the kernel refuses the filter: the thread must not run without it.
pub fn start(kind: Kind) -> impl FnOnce() + Send + 'static {
    // The new thread has the filter already if its maker is of the same kind.
    let maker = HERE.get();
    let program = (maker != Some(kind)).then(|| kind.program());
    move || {
        if let Some(program) = program
            && let Err(error) = violation::install(program, maker.is_none())
        {
            panic!("the kernel refused the filter of a thread's system calls: {error}");
        }
        HERE.set(Some(kind));
    }
}

/// Puts the filter of this kind on the calling thread, for good, and on all threads that it makes from now on.
///
/// # Errors
/// The kernel refused it; the thread is as before.
pub fn enter(kind: Kind) -> io::Result<()> {
    violation::install(kind.program(), HERE.get().is_none())?;
    HERE.set(Some(kind));
    Ok(())
}
