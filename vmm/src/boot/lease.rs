//! Keeps what is mapped into guest memory as it was: a lease on the file tells before somebody writes to it.
//!
//! A private mapping shows later changes of its file, and ends in a SIGBUS where the file was cut, even if the guest had
//! written to the page. The host's kernel holds up whoever opens a leased file for writing or cuts it until the lease is
//! given back (`fcntl(2)`, F_SETLEASE), and sends its holder a signal. The holder is a thread that then holds the guest,
//! puts copies in the place of mapped pages, lets the guest go on and gives the lease back: writer and guest wait for
//! milliseconds and notice nothing else.
#![allow(unsafe_code)] // leases, and mappings over parts of guest memory

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hutch_devices::GuestRam;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SigSet, Signal};
use vm_memory::{GuestAddress, GuestMemory};

use super::pieces::Piece;
use crate::gate::Gate;

/// What the kernel tells a lease's holder by, if it is not told otherwise.
const SIGNAL: Signal = Signal::SIGIO;
/// Little is done on this thread. Only what is used takes memory.
const STACK_SIZE: usize = 64 << 10;
/// `struct f_owner_ex` and what belongs to it, of `asm-generic/fcntl.h`.
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

#[repr(C)]
struct Owner {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// A file of which parts are mapped into guest memory.
struct Leased {
    file: File,
    pieces: Vec<Piece>,
}

/// What the keeper and the machine's owner share.
#[derive(Default)]
struct Shared {
    leased: Vec<Leased>,
    /// How to hold the guest; before it is known, no guest runs.
    gate: Option<Arc<Gate>>,
}

/// Holds leases on the files of one machine, until it is dropped.
pub struct Leases {
    ram: GuestRam,
    shared: Arc<Mutex<Shared>>,
    keeper: Option<Keeper>,
}

/// The thread that waits for writers.
struct Keeper {
    tid: libc::pid_t,
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Leases {
    /// None yet, and no thread.
    pub fn new(ram: GuestRam) -> Self {
        Self { ram, shared: Arc::default(), keeper: None }
    }

    /// Tells how to hold the guest, which may run from now on.
    pub(crate) fn attach(&self, gate: Arc<Gate>) {
        lock(&self.shared).gate = Some(gate);
    }

    /// Takes a lease on `file` and then has `map` map whole pages of it into guest memory, whose pieces it returns.
    /// Nobody changes the file from the first to the machine's end without the guest having copies of its own.
    ///
    /// # Errors
    /// [`LeaseError::Refused`], with the file: `map` was not called. Somebody has the file open for writing, it belongs to
    /// somebody else (CAP_LEASE would do), its file system has no leases, or there is no thread. Else the error of `map`.
    pub fn map(&mut self, file: File, map: impl FnOnce(&File) -> io::Result<Vec<Piece>>) -> Result<(), LeaseError> {
        // Held until the pieces are known: a writer who comes meanwhile waits for them to be mapped and copied.
        let mut shared = lock(&self.shared);
        let keeper = match &self.keeper {
            Some(keeper) => keeper,
            None => match Keeper::start(self.ram.clone(), self.shared.clone()) {
                Ok(keeper) => self.keeper.insert(keeper),
                Err(source) => return Err(LeaseError::Refused { file, source }),
            },
        };
        if let Err(source) = take(&file, keeper.tid) {
            return Err(LeaseError::Refused { file, source });
        }
        let pieces = map(&file).map_err(|error| {
            give_back(&file);
            LeaseError::Map(error)
        })?;
        shared.leased.push(Leased { file, pieces });
        Ok(())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        // Guest memory that somebody still has mapped would keep the files open, and them leased.
        lock(&self.shared).leased.iter().for_each(|leased| give_back(&leased.file));
        keeper.stop.store(true, Ordering::Release);
        if let Err(error) = pthread_kill(keeper.thread.as_pthread_t(), SIGNAL) {
            log::error!("the keeper of mapped files cannot be ended: {error}");
            return;
        }
        if keeper.thread.join().is_err() {
            log::error!("the keeper of mapped files has panicked");
        }
    }
}

/// Why a file is not mapped.
#[derive(Debug)]
pub enum LeaseError {
    /// There is no lease to be had.
    Refused {
        /// It is as it was.
        file: File,
        /// The cause.
        source: io::Error,
    },
    /// It could not be mapped.
    Map(io::Error),
}

impl Keeper {
    fn start(ram: GuestRam, shared: Arc<Mutex<Shared>>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, told) = mpsc::channel();
        let inside = move || {
            let mut signals = SigSet::empty();
            signals.add(SIGNAL);
            // Blocked before anybody knows this thread.
            let ready = signals.thread_block().map(|()| nix::unistd::gettid().as_raw());
            let failed = ready.is_err();
            if tell.send(ready).is_err() || failed {
                return;
            }
            while signals.wait().is_ok() && !stopped.load(Ordering::Acquire) {
                give_way(&ram, &mut lock(&shared));
            }
        };
        let thread = std::thread::Builder::new().name("images".into()).stack_size(STACK_SIZE).spawn(inside)?;
        let tid = told.recv().map_err(io::Error::other)??;
        Ok(Self { tid, thread, stop })
    }
}

/// Takes a lease whose end is told to thread `tid` alone.
fn take(file: &File, tid: libc::pid_t) -> io::Result<()> {
    let owner = Owner { kind: F_OWNER_TID, pid: tid };
    // SAFETY: both calls change what the kernel keeps for our descriptor; the first reads `owner`, which is of the layout
    // that it expects.
    unsafe {
        check(libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner))?;
        check(libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK))?;
    }
    Ok(())
}

/// Nobody has to wait any more.
fn give_back(file: &File) {
    // SAFETY: changes what the kernel keeps for our descriptor. Where there is no lease any more, that is an error and no
    // harm.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts copies in the place of all files that somebody waits for, and lets these files go.
fn give_way(ram: &GuestRam, shared: &mut Shared) {
    let Shared { leased, gate } = shared;
    leased.retain(|Leased { file, pieces }| {
        // SAFETY: a plain query: what the lease has to become.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } != libc::F_UNLCK {
            return true;
        }
        let copy = || pieces.iter().try_for_each(|piece| replace(ram, *piece));
        let done = match gate {
            Some(gate) => gate.held(copy).map_err(io::Error::other).flatten(),
            None => copy(),
        };
        match done {
            Ok(()) => log::info!("somebody writes to a mapped kernel or initrd; the guest has got a copy"),
            // The kernel lets the writer go on after /proc/sys/fs/lease-break-time.
            Err(error) => {
                log::error!(
                    "somebody writes to a kernel or initrd that the guest uses, and it cannot be copied: {error}"
                );
                return true;
            }
        }
        give_back(file);
        false
    });
}

/// Puts memory with the same contents in the place of a file's pages. Nobody else may touch these meanwhile.
fn replace(ram: &GuestRam, piece: Piece) -> io::Result<()> {
    let slice = ram.get_slice(GuestAddress(piece.address), piece.len as usize).map_err(io::Error::other)?;
    let (place, len) = (slice.ptr_guard_mut().as_ptr(), slice.len());
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let copy = unsafe { libc::mmap(ptr::null_mut(), len, access, kind | libc::MAP_NORESERVE, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are mapped, of this length, and different; the file has its length as long as it is leased. The copy
    // moves to the place inside of guest memory's own mapping, which stays one range of addresses.
    let moved = unsafe {
        ptr::copy_nonoverlapping(place.cast_const(), copy.cast::<u8>(), len);
        libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place)
    };
    if moved == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: our own mapping, which nobody uses.
        unsafe { libc::munmap(copy, len) };
        return Err(error);
    }
    Ok(())
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
