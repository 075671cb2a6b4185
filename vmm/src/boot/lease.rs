//! Keeps mapped files unchanged for the guest: a lease reports the next writer before it can write.
//!
//! A private mapping shows later changes of its file, and raises SIGBUS where the file was cut, even if the guest had
//! written to the page. The host's kernel blocks a process that opens a leased file for writing or cuts it until the
//! holder returns the lease (`fcntl(2)`, F_SETLEASE), and sends the holder a signal. The holder is a thread that then
//! pauses the guest, replaces mapped pages by copies, resumes the guest and returns the lease: writer and guest wait for
//! milliseconds and notice nothing else.
#![expect(unsafe_code, reason = "leases, and mappings over parts of guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hutch_devices::GuestRam;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SigSet, Signal};
use vm_memory::{GuestAddress, GuestMemory};

use super::segments::FileExtent;
use crate::arch::to_usize;
use crate::confine::seccomp::Kind;
use crate::confine::ThreadRules;
use crate::run_control::RunControl;
use crate::sync::lock;

/// The kernel's default signal to a lease's holder.
const SIGNAL: Signal = Signal::SIGIO;
/// Time between two attempts to pause a guest whose mapped file has a waiting writer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Stack of the lease thread, which does little, in bytes. Only the used part takes memory.
const STACK_SIZE: usize = 64 << 10;
/// `F_SETOWN_EX` of `asm-generic/fcntl.h`.
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;
/// `F_SETSIG` of `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// `struct f_owner_ex` of `asm-generic/fcntl.h`.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// A leased file with the extents that are mapped into guest memory.
struct Leased {
    file: File,
    extents: Vec<FileExtent>,
}

/// State that the lease thread and the machine's owner share.
#[derive(Default)]
struct Shared {
    leased: Vec<Leased>,
    /// Pauses the guest. `None`: the guest has not started.
    control: Option<Arc<RunControl>>,
}

/// Holds leases on the files of one machine until it is dropped.
pub struct Leases {
    ram: GuestRam,
    shared: Arc<Mutex<Shared>>,
    keeper: Option<Keeper>,
    /// For the thread.
    pub(super) rules: ThreadRules,
}

/// The thread that waits for writers.
struct Keeper {
    tid: libc::pid_t,
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Leases {
    /// No lease and no thread yet.
    pub fn new(ram: GuestRam) -> Self {
        Self { ram, shared: Arc::default(), keeper: None, rules: ThreadRules::default() }
    }

    /// Hands over the means to pause the guest. From this call on the guest may run.
    pub(crate) fn attach(&self, control: Arc<RunControl>) {
        lock(&self.shared).control = Some(control);
    }

    /// Takes a lease on `file`, then calls `map`, which maps whole pages of the file into guest memory and returns their
    /// extents. From the lease to the machine's end, the guest gets its own copies before the file changes.
    ///
    /// # Errors
    /// [`LeaseError::Refused`], with the file: `map` was not called. A process has the file open for writing, the file has
    /// another owner (CAP_LEASE would help), its file system has no leases, or the thread could not be started.
    /// [`LeaseError::Map`]: the error of `map`.
    pub fn map(
        &mut self,
        file: File,
        map: impl FnOnce(&File) -> io::Result<Vec<FileExtent>>,
    ) -> Result<(), LeaseError> {
        // Locked until the extents are known: a writer that comes meanwhile waits until they are mapped and copied.
        let mut shared = lock(&self.shared);
        let keeper = match &self.keeper {
            Some(keeper) => keeper,
            None => match Keeper::start(self.ram.clone(), self.shared.clone(), &self.rules) {
                Ok(keeper) => self.keeper.insert(keeper),
                Err(source) => return Err(LeaseError::Refused { file, source }),
            },
        };
        if let Err(source) = take_lease(&file, keeper.tid) {
            return Err(LeaseError::Refused { file, source });
        }
        let extents = map(&file).map_err(|error| {
            return_lease(&file);
            LeaseError::Map(error)
        })?;
        shared.leased.push(Leased { file, extents });
        Ok(())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        // A remaining mapping of guest memory would keep the files open, and thus leased.
        lock(&self.shared).leased.iter().for_each(|leased| return_lease(&leased.file));
        keeper.stop.store(true, Ordering::Release);
        if let Err(error) = pthread_kill(keeper.thread.as_pthread_t(), SIGNAL) {
            log::error!("cannot end the lease thread: {error}");
            return;
        }
        if keeper.thread.join().is_err() {
            log::error!("the lease thread has panicked");
        }
    }
}

/// Why a file was not mapped.
#[derive(Debug)]
pub enum LeaseError {
    /// The kernel refused the lease, or the lease thread could not be started.
    Refused {
        /// The unchanged file.
        file: File,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file could not be mapped.
    Map(io::Error),
}

impl Keeper {
    fn start(ram: GuestRam, shared: Arc<Mutex<Shared>>, rules: &ThreadRules) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (sender, tid) = mpsc::channel();
        let inside = move || {
            let mut signals = SigSet::empty();
            signals.add(SIGNAL);
            // Blocked before the thread's id is published.
            let ready = signals.thread_block().map(|()| nix::unistd::gettid().as_raw());
            let failed = ready.is_err();
            if sender.send(ready).is_err() || failed {
                return;
            }
            let mut retry = false;
            while wait_for(&signals, retry.then_some(RETRY_INTERVAL)) && !stopped.load(Ordering::Acquire) {
                retry = admit_writers(&ram, &mut lock(&shared), retry);
            }
        };
        let rules = rules.clone();
        let thread = rules.clone().call(move || {
            let start = rules.start(Kind::Images);
            std::thread::Builder::new().name("images".into()).stack_size(STACK_SIZE).spawn(move || {
                start();
                inside();
            })
        })?;
        let tid = tid.recv().map_err(io::Error::other)??;
        Ok(Self { tid, thread, stop })
    }
}

/// Takes a lease whose break signal goes to thread `tid` alone.
fn take_lease(file: &File, tid: libc::pid_t) -> io::Result<()> {
    let owner = Owner { kind: F_OWNER_TID, pid: tid };
    // SAFETY: both calls change the kernel's state of our descriptor; the first reads `owner`, which has the layout that
    // the kernel expects.
    unsafe {
        check(libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner))?;
        check(libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK))?;
    }
    Ok(())
}

/// A lease for the time of a copy: no process can cut the file meanwhile; a writer waits until it is dropped.
pub(super) struct CopyLease<'a>(&'a File);

impl<'a> CopyLease<'a> {
    /// Fails if a process has the file open for writing, or the file cannot be leased.
    pub fn take(file: &'a File) -> io::Result<Self> {
        // A signal that is ignored unless a program handles it: nothing has to be done for the writer but to go on.
        // SAFETY: both calls change the kernel's state of our descriptor.
        unsafe {
            check(libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG))?;
            check(libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK))?;
        }
        Ok(Self(file))
    }
}

impl Drop for CopyLease<'_> {
    fn drop(&mut self) {
        return_lease(self.0);
    }
}

/// Returns the lease: writers of the file no longer wait.
fn return_lease(file: &File) {
    // SAFETY: changes the kernel's state of our descriptor. Without a lease it fails, which does no harm.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}

/// Waits for a signal, or until `timeout`. False if waiting is not possible.
fn wait_for(signals: &SigSet, timeout: Option<Duration>) -> bool {
    let Some(timeout) = timeout else { return signals.wait().is_ok() };
    let time = libc::timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: the kernel reads the set and the time.
    let signal = unsafe { libc::sigtimedwait(signals.as_ref(), ptr::null_mut(), &raw const time) };
    signal >= 0 || matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

/// Replaces the mapped pages of each file that has a waiting writer by copies, and returns its lease. True if that was
/// not possible for one of them: the guest could not be paused. `again`: a failure has been logged.
fn admit_writers(ram: &GuestRam, shared: &mut Shared, again: bool) -> bool {
    let Shared { leased, control } = shared;
    let mut failed = false;
    leased.retain(|Leased { file, extents }| {
        // SAFETY: a query: the state that the lease must change to.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } != libc::F_UNLCK {
            return true;
        }
        let copy = || extents.iter().try_for_each(|extent| replace(ram, *extent));
        let done = match control {
            Some(control) => control.with_guest_paused(copy).map_err(io::Error::other).flatten(),
            None => copy(),
        };
        match done {
            Ok(()) => {
                log::info!("the kernel or initrd file was opened for writing; its pages were copied into the guest");
            }
            // The kernel admits the writer after /proc/sys/fs/lease-break-time, 45 s by default.
            Err(error) => {
                if !again {
                    log::error!(
                        "the kernel or initrd file was opened for writing, and its pages cannot be copied into the \
                         guest yet: {error}"
                    );
                }
                failed = true;
                return true;
            }
        }
        return_lease(file);
        false
    });
    failed
}

/// Replaces the pages of a file by memory with the same contents. No other thread may access them meanwhile.
fn replace(ram: &GuestRam, extent: FileExtent) -> io::Result<()> {
    let slice = ram.get_slice(GuestAddress(extent.address), to_usize(extent.len)).map_err(io::Error::other)?;
    let (place, len) = (slice.ptr_guard_mut().as_ptr(), slice.len());
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let copy = unsafe { libc::mmap(ptr::null_mut(), len, access, kind | libc::MAP_NORESERVE, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are mapped, of this length, and different; the lease preserves the file's length. The copy moves into
    // guest memory's own mapping, which stays one range of addresses.
    let moved = unsafe {
        ptr::copy_nonoverlapping(place.cast_const(), copy.cast::<u8>(), len);
        libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place)
    };
    if moved == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: our own mapping, which has no other user.
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
