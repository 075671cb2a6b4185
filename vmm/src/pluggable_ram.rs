//! The host's memory behind the pluggable region. Called on the memory device's thread, one request at a time.
//!
//! Blocks that are not plugged in have no access rights (`PROT_NONE`). So nothing can take memory for them: not the
//! guest, whose KVM_RUN fails with EFAULT and which ends, nor this process, nor a worker in the host's kernel.
#![expect(unsafe_code, reason = "mprotect and madvise on guest memory")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use hutch_devices::virtio::mem::RegionMemory;
use hutch_devices::GuestRam;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion};

/// Access rights of plugged blocks.
const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// The memory of the pluggable region, which `memory::create` has mapped without access rights.
pub struct PluggableRam(pub GuestRam);

impl RegionMemory for PluggableRam {
    fn plug(&self, addr: u64, len: u64) -> io::Result<()> {
        let part = Part::of(&self.0, addr, len)?;
        part.protect(ACCESS).inspect_err(|_| {
            // The kernel changes one mapping after the other. Those before the one that it refused are accessible now.
            if let Err(error) = part.protect(libc::PROT_NONE) {
                log::error!("the guest may use memory that it was not given: {error}");
            }
        })
    }

    fn unplug(&self, addr: u64, len: u64) -> io::Result<()> {
        let part = Part::of(&self.0, addr, len)?;
        // Before the pages go: the guest could take new ones otherwise.
        let Err(error) = part.protect(libc::PROT_NONE).and_then(|()| part.free()) else { return Ok(()) };
        if let Err(refused) = part.protect(ACCESS) {
            // Cannot be undone. The guest plugs the blocks in again before it uses them.
            log::error!("the host keeps memory that the guest has unplugged: {error}, {refused}");
            return Ok(());
        }
        Err(error)
    }
}

/// Whole blocks of the region in this process's address space.
struct Part<'a> {
    ram: &'a GuestRam,
    addr: GuestAddress,
    start: *mut libc::c_void,
    len: usize,
}

impl<'a> Part<'a> {
    /// Fails if the range is not within one region of memory.
    fn of(ram: &'a GuestRam, addr: u64, len: u64) -> io::Result<Self> {
        let addr = GuestAddress(addr);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let slice = ram.get_slice(addr, len).map_err(io::Error::other)?;
        Ok(Self { ram, addr, start: slice.ptr_guard_mut().as_ptr().cast(), len })
    }

    fn protect(&self, access: libc::c_int) -> io::Result<()> {
        #[cfg(test)]
        tests::faults::check(if access == ACCESS { tests::Call::Access } else { tests::Call::Protect })?;
        // SAFETY: memory of the guest's mapping. Rights are taken only from blocks that no device uses, as their pins
        // show; everything else in this process accesses guest memory outside the region.
        check(unsafe { libc::mprotect(self.start, self.len, access) })
    }

    /// Frees the host's memory. Works without access rights.
    fn free(&self) -> io::Result<()> {
        #[cfg(test)]
        tests::faults::check(tests::Call::Free)?;
        let region = self.ram.find_region(self.addr).ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(file) = region.file_offset() {
            // MADV_DONTNEED would leave shared memory in its file.
            let offset = file.start() + (self.addr.raw_value() - region.start_addr().raw_value());
            let (offset, len) = (libc::off_t::try_from(offset), libc::off_t::try_from(self.len));
            let (offset, len) = (offset.map_err(io::Error::other)?, len.map_err(io::Error::other)?);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: changes our own file. Its pages in the guest's mapping become holes, and nothing can access them.
            return check(unsafe { libc::fallocate(file.file().as_raw_fd(), mode, offset, len) });
        }
        self.discard(&[libc::MADV_DONTNEED, MADV_DONTNEED_LOCKED])
    }

    /// Drops the pages of private memory by the first of `advices` that the kernel accepts, or else by hand.
    fn discard(&self, advices: &[libc::c_int]) -> io::Result<()> {
        for advice in advices {
            // SAFETY: memory of the guest's mapping. Its contents change, but the guest has unplugged it.
            match check(unsafe { libc::madvise(self.start, self.len, *advice) }) {
                // Locked memory, or an advice that the kernel does not know.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (),
                other => return other,
            }
        }
        if !WARNED.swap(true, Ordering::Relaxed) {
            log::warn!(
                "this kernel has no MADV_DONTNEED_LOCKED (Linux 5.18): memory that a guest gives back is unlocked first"
            );
        }
        // SAFETY: as above. The memory is locked again before the guest can use it; with ONFAULT that takes no pages.
        unsafe {
            check(libc::munlock(self.start, self.len))?;
            let dropped = check(libc::madvise(self.start, self.len, libc::MADV_DONTNEED));
            check(libc::mlock2(self.start, self.len, libc::MLOCK_ONFAULT)).and(dropped)
        }
    }
}

/// `MADV_DONTNEED_LOCKED` of `asm-generic/mman-common.h`, since Linux 5.18.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
/// The kernel lacks it, and that was logged.
static WARNED: AtomicBool = AtomicBool::new(false);

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[path = "pluggable_ram_tests.rs"]
mod tests;
