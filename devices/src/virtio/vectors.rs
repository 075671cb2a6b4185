//! Lists of buffers for one `readv` or `writev`: guest memory of a descriptor chain, and host memory beside it.
//!
//! Device workers use them, mostly through `ChainReader` and `ChainWriter`.

#![expect(unsafe_code, reason = "readv and writev on guest memory take raw pointers; all of that is in this file")]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use smallvec::SmallVec;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

#[cfg(test)]
use super::faults;

/// Buffers of one system call: as many as the kernel takes in one `readv` (`UIO_MAXIOV`). It is also the limit of
/// descriptors in a chain; Linux drivers use far fewer.
pub const MAX_SEGMENTS: usize = 1024;

/// Guest and host buffers for one `readv`: the kernel writes into them.
#[derive(Default)]
pub struct ReadVectors<'a>(Vectors<'a>);

impl<'a> ReadVectors<'a> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds ranges of `mem`.
    ///
    /// # Panics
    /// If a range is outside `mem`: a mistake of the caller.
    pub(super) fn push_ranges(
        &mut self,
        mem: &'a GuestMemoryMmap<()>,
        ranges: impl Iterator<Item = (GuestAddress, u32)>,
    ) {
        self.0.push_ranges(mem, ranges);
    }

    /// Adds a host buffer.
    pub fn push_slice(&mut self, data: &'a mut [u8]) {
        self.0.push(data.as_mut_ptr(), data.len());
    }

    /// Number of bytes in the list. Fewer than were added if there were more than [`MAX_SEGMENTS`] buffers; the last
    /// one is always left for a host buffer.
    pub fn capacity(&self) -> usize {
        self.0.bytes
    }

    /// Does one `readv`, which is repeated if a signal interrupts it. Returns the number of bytes; 0 is the end of a
    /// stream.
    pub fn readv(&mut self, fd: impl AsFd) -> io::Result<usize> {
        self.0.call(fd.as_fd(), |fd, vectors, count| {
            // SAFETY: every vector points to writable bytes that are borrowed for 'a: a host slice borrowed mutably, or
            // guest memory, which is only accessed by system calls and volatile operations.
            unsafe { libc::readv(fd, vectors, count) }
        })
    }

    /// Does the same as [`Self::readv`], from `offset` of a file.
    pub fn preadv(&mut self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.0.call(fd.as_fd(), |fd, vectors, count| {
            // SAFETY: as for readv.
            unsafe { libc::preadv(fd, vectors, count, offset) }
        })
    }
}

/// Guest and host buffers for one `writev`: the kernel reads them.
#[derive(Default)]
pub struct WriteVectors<'a>(Vectors<'a>);

impl<'a> WriteVectors<'a> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds ranges of `mem`.
    ///
    /// # Panics
    /// If a range is outside `mem`: a mistake of the caller.
    pub(super) fn push_ranges(
        &mut self,
        mem: &'a GuestMemoryMmap<()>,
        ranges: impl Iterator<Item = (GuestAddress, u32)>,
    ) {
        self.0.push_ranges(mem, ranges);
    }

    /// Adds a host buffer.
    pub fn push_slice(&mut self, data: &'a [u8]) {
        self.0.push(data.as_ptr().cast_mut(), data.len());
    }

    /// Number of bytes in the list. Fewer than were added if there were more than [`MAX_SEGMENTS`] buffers.
    pub fn len(&self) -> usize {
        self.0.bytes
    }

    /// Whether the list holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.bytes == 0
    }

    /// Does one `writev`, which is repeated if a signal interrupts it. Returns the number of bytes.
    pub fn writev(&mut self, fd: impl AsFd) -> io::Result<usize> {
        self.0.call(fd.as_fd(), |fd, vectors, count| {
            // SAFETY: every vector points to readable bytes that are borrowed for 'a; the kernel only reads them.
            unsafe { libc::writev(fd, vectors, count) }
        })
    }

    /// Does the same as [`Self::writev`], at `offset` of a file.
    pub fn pwritev(&mut self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.0.call(fd.as_fd(), |fd, vectors, count| {
            // SAFETY: as for writev.
            unsafe { libc::pwritev(fd, vectors, count, offset) }
        })
    }

    /// Does the same as [`Self::pwritev`] with flags of `pwritev2(2)`, such as `RWF_APPEND`.
    pub fn pwritev2(&mut self, fd: impl AsFd, offset: u64, flags: libc::c_int) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.0.call(fd.as_fd(), |fd, vectors, count| {
            // SAFETY: as for writev.
            unsafe { libc::pwritev2(fd, vectors, count, offset, flags) }
        })
    }
}

/// At most [`MAX_SEGMENTS`] vectors. Further ones are left out, which only makes the system call shorter.
#[derive(Default)]
struct Vectors<'a> {
    list: SmallVec<[libc::iovec; 16]>,
    bytes: usize,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> Vectors<'a> {
    /// Adds a buffer. Leaves it out if the list is full or the sum of lengths overflows.
    fn push(&mut self, base: *mut u8, len: usize) {
        let Some(bytes) = self.bytes.checked_add(len) else { return };
        if len > 0 && self.list.len() < MAX_SEGMENTS {
            self.bytes = bytes;
            self.list.push(libc::iovec { iov_base: base.cast(), iov_len: len });
        }
    }

    fn push_ranges(&mut self, mem: &'a GuestMemoryMmap<()>, ranges: impl Iterator<Item = (GuestAddress, u32)>) {
        for (addr, len) in ranges {
            // A buffer may lie in two regions. The range was checked when its chain was collected from this memory.
            for slice in mem.get_slices(addr, len as usize) {
                if self.list.len() >= MAX_SEGMENTS - 1 {
                    return;
                }
                let slice = slice.expect("a chain was used with another memory than it was collected from");
                self.push(slice.ptr_guard_mut().as_ptr(), slice.len());
            }
        }
    }

    fn call(
        &self,
        fd: BorrowedFd<'_>,
        operation: impl Fn(libc::c_int, *const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        loop {
            match self.attempt(fd, &operation) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn attempt(
        &self,
        fd: BorrowedFd<'_>,
        operation: impl Fn(libc::c_int, *const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        let list = &self.list[..];
        #[cfg(test)]
        let short;
        #[cfg(test)]
        let list = match faults::next(fd, faults::Operation::Transfer) {
            Some(faults::Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(faults::Fault::Short(len)) => {
                short = list.first().map(|all| libc::iovec { iov_len: all.iov_len.min(len), ..*all });
                short.as_slice()
            }
            None => list,
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_SEGMENTS")]
        let count = list.len() as libc::c_int;
        let result = operation(fd.as_raw_fd(), list.as_ptr(), count);
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
