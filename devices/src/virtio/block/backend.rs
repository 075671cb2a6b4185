//! A disk's storage: a raw image file or a block device of the host, locked while it is open.
//!
//! The VMM's main thread opens it at boot; one that is plugged in later comes opened. The disk's worker uses it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use vmm_sys_util::fallocate::{fallocate, FallocateMode};

use super::config::BlockError;
use super::request::{DiskInfo, DiskRange, SECTOR};
#[cfg(test)]
use crate::virtio::faults;
use crate::virtio::{ChainReader, ChainWriter};

/// Zeroes to write where the file system has no faster way.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// An open, locked image.
#[derive(Debug)]
pub struct Backend {
    file: File,
    disk: DiskInfo,
}

impl Backend {
    /// Opens and locks the image at `path`: against writers if `read_only`, else against all other users. The kernel
    /// releases the lock with the process.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, BlockError> {
        Self::of_file(open_image(path, read_only)?, path, read_only)
    }

    /// Checks and locks an image that was opened with [`open_image`], maybe by another process: the lock belongs to the
    /// opened file, not to a process. `path` is for messages.
    pub fn of_file(mut file: File, path: &Path, read_only: bool) -> Result<Self, BlockError> {
        let access = fcntl(&file, FcntlArg::F_GETFL)
            .map_err(|error| BlockError::Open { path: path.to_owned(), source: error.into() })?;
        let wanted = if read_only { libc::O_RDONLY } else { libc::O_RDWR };
        if access & (libc::O_ACCMODE | libc::O_PATH | libc::O_APPEND) != wanted {
            return Err(BlockError::Access { path: path.to_owned(), read_only });
        }
        let size_error = |source| BlockError::Size { path: path.to_owned(), source };
        let kind = file.metadata().map_err(size_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BlockError::Kind(path.to_owned()));
        }
        lock(&file, path, read_only)?;
        // The end of a block device is its size, as BLKGETSIZE64 returns it.
        let size = file.seek(SeekFrom::End(0)).map_err(size_error)?;
        if size == 0 {
            return Err(BlockError::Empty(path.to_owned()));
        }
        if size % SECTOR != 0 {
            return Err(BlockError::Unaligned { path: path.to_owned(), size });
        }
        Ok(Self { file, disk: DiskInfo { sectors: size / SECTOR, read_only } })
    }

    /// Capacity and access mode, which requests are checked against.
    pub fn disk(&self) -> DiskInfo {
        self.disk
    }

    /// Fills `buffers` from byte `offset` on, without a copy. After an error `buffers` has moved by the bytes read.
    pub fn read(&self, offset: u64, buffers: &mut ChainWriter<'_>) -> io::Result<()> {
        buffers.fill_from_at(&self.file, offset)
    }

    /// Writes `buffers` at byte `offset`, without a copy.
    pub fn write(&self, offset: u64, buffers: &mut ChainReader<'_>) -> io::Result<()> {
        buffers.write_all_at(&self.file, offset)
    }

    /// Returns when all data written so far is on stable storage: fdatasync(2). `perform` (`worker.rs`) calls it for a
    /// flush of the guest, and after each write of a driver that does not flush.
    pub fn flush(&self) -> io::Result<()> {
        #[cfg(test)]
        faults::check(&self.file, faults::Operation::Sync)?;
        self.file.sync_data()
    }

    /// Frees the storage behind `range`, whose contents the guest does not need any more. Does nothing on a file system
    /// without holes.
    pub fn discard(&self, range: DiskRange) -> io::Result<()> {
        self.allocate(|| FallocateMode::PunchHole, range).map(drop)
    }

    /// Fills `range` with zeroes, or with a hole if `range.unmap`.
    pub fn write_zeroes(&self, range: DiskRange) -> io::Result<()> {
        let mode = || if range.unmap { FallocateMode::PunchHole } else { FallocateMode::ZeroRange };
        if self.allocate(mode, range)? {
            return Ok(());
        }
        let mut offset = range.offset;
        let mut left = range.len;
        while left > 0 {
            let len = left.min(ZEROES.len() as u64);
            let zeroes = usize::try_from(len).ok().and_then(|len| ZEROES.get(..len)).unwrap_or_default();
            #[cfg(test)]
            faults::check(&self.file, faults::Operation::Zeroes)?;
            self.file.write_all_at(zeroes, offset)?;
            offset = offset.saturating_add(len);
            left -= len;
        }
        Ok(())
    }

    /// False if the file system does not support it.
    fn allocate(&self, mode: impl Fn() -> FallocateMode, range: DiskRange) -> io::Result<bool> {
        let attempt = || fallocate(&self.file, mode(), true, range.offset, range.len);
        #[cfg(test)]
        let attempt = || match faults::next(&self.file, faults::Operation::Allocate) {
            Some(faults::Fault::Error(errno)) => Err(vmm_sys_util::errno::Error::new(errno)),
            _ => attempt(),
        };
        loop {
            match attempt() {
                Ok(()) => return Ok(true),
                Err(error) if [libc::EOPNOTSUPP, libc::ENOSYS].contains(&error.errno()) => return Ok(false),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens the image at `path` as `Backend::of_file` wants it. Does not lock it.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::InUse`] if it is a block device that another process has for itself.
pub fn open_image(path: &Path, read_only: bool) -> Result<File, BlockError> {
    // O_NONBLOCK: opening a pipe must not wait for its other end. It has no effect on files and disks. O_EXCL: the guest
    // must not write to a block device that the host has mounted.
    let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    let exclusive = if device && !read_only { libc::O_EXCL } else { 0 };
    let options = OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_NONBLOCK | exclusive).clone();
    options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => BlockError::InUse { path: path.to_owned(), read_only },
        _ => BlockError::Open { path: path.to_owned(), source },
    })
}

/// Takes an open file description lock over the whole file.
fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), BlockError> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    #[expect(clippy::cast_possible_truncation, reason = "constants of fcntl(2) between 0 and 2")]
    let range = libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(BlockError::InUse { path: path.to_owned(), read_only }),
        Err(error) => Err(BlockError::Lock { path: path.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
