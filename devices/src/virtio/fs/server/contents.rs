//! Opening, reading and writing files. Data go between files and guest memory without a copy.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{fallocate, openat, FallocateFlags, OFlag};
use nix::unistd::{lseek64, Whence};
use vm_memory::GuestMemoryMmap;

use super::super::config::FsCache;
use super::abi::{
    fopen, CopyFileRangeIn, CreateIn, CreateOut, FallocateIn, FlushIn, FsyncIn, LseekIn, LseekOut, OpenIn, OpenOut,
    ReadIn, ReleaseIn, WriteIn, WriteOut, FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, WRITE_CACHE, WRITE_KILL_SUIDGID,
};
use super::attributes::ordinary_user;
use super::message::{Reply, Request, OUT_HEADER};
use super::names::permissions;
use super::nodes::Identity;
use super::{errno, open_again, sys, Server};
#[cfg(test)]
use crate::virtio::faults;
use crate::virtio::vectors::WriteVectors;
use crate::virtio::Chain;

/// Flags of `open(2)` that a guest may choose. Left out are `O_CREAT`, `O_EXCL` and `O_TMPFILE`, which have their own
/// requests; `O_APPEND`, since the position of each write says it; `O_PATH`, which makes a descriptor that cannot be
/// read; `O_ASYNC`, which causes signals; `O_NOATIME`, which only the owner may use; and `O_DIRECT`, which concerns the
/// guest's cache only: host files need not support it.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_NONBLOCK
    | libc::O_TRUNC
    | libc::O_DIRECTORY
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_LARGEFILE;
/// Most bytes that one request copies between files. The guest asks for the rest again.
const COPY_MAX: u64 = 64 << 20;

/// Whether a file opened with these flags can be written or is emptied.
fn changes_contents(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

impl Server {
    /// The flags with which to open a file of the host.
    fn open_flags(&self, flags: u32) -> io::Result<i32> {
        let mut flags = flags.cast_signed() & OPEN_FLAGS;
        if flags & libc::O_ACCMODE == libc::O_ACCMODE {
            // Linux opens a file so for ioctl(2) only; it checks for reading and writing.
            flags = flags & !libc::O_ACCMODE | libc::O_RDWR;
        }
        if changes_contents(flags) {
            self.writable()?;
        }
        Ok(flags)
    }

    /// The guest has a new open file.
    fn opened(&self, id: u64, file: Arc<File>) -> OpenOut {
        self.nodes.opened(id, &file);
        let open_flags = match self.cache {
            FsCache::Never => fopen::DIRECT_IO,
            FsCache::Always => fopen::KEEP_CACHE,
            FsCache::Auto => 0,
        };
        OpenOut { fh: self.handles.add(id, file), open_flags, backing_id: 0 }
    }

    pub(super) fn open(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: OpenIn = request.arguments().object()?;
        let id = request.head.nodeid;
        let flags = self.open_flags(body.flags)?;
        self.room()?;
        // Special files of the host are never opened: a pipe would block, a device act.
        let kind = self.nodes.identity(id)?.kind;
        if kind != libc::S_IFREG && kind != libc::S_IFDIR {
            return Err(errno(libc::EBADF));
        }
        let file = self.open_node(&*self.nodes.descriptor(id)?, flags, body.open_flags)?;
        Ok(Reply::object(&self.opened(id, Arc::new(file))))
    }

    /// Opens a file whose type is known to be harmless.
    fn open_node(&self, descriptor: &OwnedFd, flags: i32, open_flags: u32) -> io::Result<File> {
        let mut _user = None;
        if changes_contents(flags) {
            let stat = sys::stat_open(descriptor)?;
            self.strip(descriptor, &stat)?;
            _user = ordinary_user(&stat, open_flags & OPEN_KILL_SUIDGID != 0)?;
        }
        open_again(self.nodes.proc(), descriptor, flags)
    }

    pub(super) fn create(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (CreateIn, _) = (arguments.object()?, arguments.name()?);
        let id = request.head.nodeid;
        self.changeable(id)?;
        self.room()?;
        let flags = self.open_flags(body.flags)?;
        let mode = permissions(self.xattrs.privileges.mode(libc::S_IFREG, body.mode) & !(body.umask & 0o777));
        let directory = self.nodes.descriptor(id)?;
        let create = OFlag::from_bits_retain(flags) | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        #[cfg(test)]
        faults::check(&*directory, faults::Operation::Open)?;
        let made = {
            let _user = Self::user(request)?;
            openat(&*directory, name, create | OFlag::O_CLOEXEC, mode)
        };
        let exclusive = body.flags.cast_signed() & libc::O_EXCL != 0;
        let file = match made {
            Ok(file) => File::from(file),
            Err(nix::Error::EEXIST) if !exclusive => {
                let existing = sys::open_entry(&*directory, name)?;
                if u32::from(sys::stat_open(&existing)?.stx_mode) & libc::S_IFMT != libc::S_IFREG {
                    return Err(errno(libc::EBADF));
                }
                self.open_node(&existing, flags, body.open_flags)?
            }
            Err(error) => return Err(error.into()),
        };
        let file = Arc::new(file);
        let entry = self.entry(id, name, &sys::stat_open(&*file)?)?;
        Ok(Reply::object(&CreateOut { open: self.opened(entry.nodeid, file), entry }))
    }

    /// Makes a file without a name, which LINK may give one.
    pub(super) fn tmpfile(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: CreateIn = request.arguments().object()?;
        let id = request.head.nodeid;
        self.changeable(id)?;
        self.room()?;
        let flags = self.open_flags(body.flags)?;
        let mode = permissions(self.xattrs.privileges.mode(libc::S_IFREG, body.mode) & !(body.umask & 0o777));
        let exclusive = OFlag::from_bits_retain(body.flags.cast_signed()) & OFlag::O_EXCL;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_TMPFILE | OFlag::O_CLOEXEC | exclusive;
        let directory = self.nodes.descriptor(id)?;
        let file = {
            let _user = Self::user(request)?;
            Arc::new(File::from(openat(&*directory, c".", flags, mode)?))
        };
        let stat = sys::stat_open(&*file)?;
        let node = self.nodes.made_nameless(Identity::of(&stat))?;
        Ok(Reply::object(&CreateOut { entry: self.entry_of(node, &stat), open: self.opened(node, file) }))
    }

    pub(super) fn read(&self, request: &Request<'_>, chain: &Chain, mem: &GuestMemoryMmap<()>) -> io::Result<Reply> {
        let body: ReadIn = request.arguments().object()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        let mut writer = chain.writer(mem);
        writer.skip(OUT_HEADER).map_err(|_| errno(libc::EINVAL))?;
        let mut data = writer.limited(body.size);
        let room = data.remaining();
        // A reply that is short says that the file ends there: the guest would put zeroes after it. So a short read of the
        // host is continued, and an error after a part of the data fails all of it; the guest then asks for single pages.
        match data.fill_from_at(&*handle.file, body.offset) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(Reply::filled(room - data.remaining())),
        }
    }

    pub(super) fn write(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: WriteIn = request.arguments().object()?;
        self.writable()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        if request.data.remaining() < body.size {
            return Err(errno(libc::EINVAL));
        }
        let mut _user = None;
        if body.write_flags & WRITE_KILL_SUIDGID != 0 {
            _user = ordinary_user(&sys::stat_open(&*handle.file)?, true)?;
        }
        let mut vectors = WriteVectors::new();
        request.data.limited(body.size).push_to(&mut vectors);
        // Pages of the guest's cache go to their place even if the file is open for appending.
        let append = body.flags.cast_signed() & libc::O_APPEND != 0 && body.write_flags & WRITE_CACHE == 0;
        let count = vectors.pwritev2(&*handle.file, body.offset, if append { libc::RWF_APPEND } else { 0 })?;
        Ok(Reply::object(&WriteOut { size: u32::try_from(count).map_err(io::Error::other)?, padding: 0 }))
    }

    pub(super) fn flush(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: FlushIn = request.arguments().object()?;
        sys::close_again(&*self.handles.get(body.fh, request.head.nodeid)?.file)?;
        Ok(Reply::empty())
    }

    pub(super) fn fsync(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: FsyncIn = request.arguments().object()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        #[cfg(test)]
        faults::check(&*handle.file, faults::Operation::Sync)?;
        if body.fsync_flags & FSYNC_FDATASYNC != 0 {
            handle.file.sync_data()?;
        } else {
            handle.file.sync_all()?;
        }
        Ok(Reply::empty())
    }

    pub(super) fn release(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: ReleaseIn = request.arguments().object()?;
        let id = request.head.nodeid;
        let handle = self.handles.remove(body.fh, id)?;
        self.nodes.closing(id, &handle.file);
        Ok(Reply::empty())
    }

    pub(super) fn fallocate(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: FallocateIn = request.arguments().object()?;
        self.writable()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        let mode = FallocateFlags::from_bits(body.mode.cast_signed()).ok_or_else(|| errno(libc::EOPNOTSUPP))?;
        let (offset, length) = (file_offset(body.offset)?, file_offset(body.length)?);
        let _user = ordinary_user(&sys::stat_open(&*handle.file)?, request.head.uid != 0)?;
        #[cfg(test)]
        faults::check(&*handle.file, faults::Operation::Allocate)?;
        fallocate(&*handle.file, mode, offset, length)?;
        Ok(Reply::empty())
    }

    pub(super) fn lseek(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: LseekIn = request.arguments().object()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        // The guest's kernel knows its positions itself. A directory's position belongs to READDIR.
        let whence = match body.whence.cast_signed() {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(errno(libc::EINVAL)),
        };
        if self.nodes.identity(handle.node)?.kind != libc::S_IFREG {
            return Err(errno(libc::EINVAL));
        }
        let offset = lseek64(&*handle.file, file_offset(body.offset)?, whence)?;
        Ok(Reply::object(&LseekOut { offset: offset.cast_unsigned() }))
    }

    pub(super) fn copy_file_range(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: CopyFileRangeIn = request.arguments().object()?;
        self.writable()?;
        let from = self.handles.get(body.fh_in, request.head.nodeid)?;
        let to = self.handles.get(body.fh_out, body.nodeid_out)?;
        if body.flags != 0 {
            return Err(errno(libc::EINVAL));
        }
        let len = usize::try_from(body.len.min(COPY_MAX)).map_err(io::Error::other)?;
        let (start, end) = (file_offset(body.off_in)?, file_offset(body.off_out)?);
        let _user = ordinary_user(&sys::stat_open(&*to.file)?, request.head.uid != 0)?;
        let count = sys::copy_range(&*from.file, start, &*to.file, end, len)?;
        Ok(Reply::object(&WriteOut { size: u32::try_from(count).map_err(io::Error::other)?, padding: 0 }))
    }
}

fn file_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| errno(libc::EINVAL))
}
