//! The file server: answers the guest's requests (FUSE) with the files of one directory. The threads of `worker` call
//! it.
//!
//! | file | contents |
//! |---|---|
//! | `abi` | the messages as they lie in memory |
//! | `message` | requests, copied once and parsed by pure functions; replies |
//! | `nodes` | the files that the guest knows |
//! | `handles` | the files that the guest has open |
//! | `names` | look-ups, and operations that change names |
//! | `attributes` | attributes, owners, modes, times, sizes |
//! | `contents` | opening, reading and writing |
//! | `directories` | reading directories |
//! | `xattrs` | extended attributes |
//! | `sys` | system calls |
//!
//! * The guest cannot leave the directory: names are single components, `.` and `..` are refused, links are never
//!   followed (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), special files are never opened.
//! * A read-only share refuses every change here, in addition to the read-only mount where there is one.
//! * Files of the guest get no more power on the host than the share allows: `privileges`.
//! * Open flags that a guest must not use are dropped.
//! * Sizes that the guest chooses are bounded before anything of that size is allocated.
//! * Descriptors are bounded: files are opened when they are used, and those that the guest opens are refused when the
//!   process would run short of descriptors.
//! * Files of different file systems below the root do not share inode numbers.

// The oldest name for each constant is the kernel's; the docs of the modules of constants say which.
#[allow(missing_docs)]
pub mod abi;
mod attributes;
mod contents;
mod directories;
mod handles;
mod message;
mod names;
mod nodes;
mod sys;
mod xattrs;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{openat, OFlag};
use nix::sys::stat::Mode;
use vm_memory::GuestMemoryMmap;

use self::abi::{init, BatchForgetIn, ForgetIn, ForgetOne, InitIn, InitIn2, InitOut, Opcode};
use self::handles::Handles;
use self::message::{write_error, write_reply, Refusal, Reply, Request};
use self::nodes::Nodes;
use super::config::{FsCache, FsDeviceConfig};
use super::limit::{Budget, Headroom};
use super::privileges::XattrPolicy;
use super::root::ShareRoot;
use super::single_file::SingleFile;
#[cfg(test)]
use crate::virtio::faults;
use crate::virtio::Chain;

/// Largest read and write, in bytes.
const DATA_MAX: u32 = 1 << 20;
/// The same in pages of 4096 bytes.
const PAGES_MAX: u16 = 256;
/// Most requests of the guest in the background. It has memory for far fewer.
const BACKGROUND: u16 = u16::MAX;
/// The number of them from which the guest slows down.
const CONGESTION: u16 = BACKGROUND / 4 * 3;
/// Position of the number of a file system in an inode number. Only exotic file systems use these bits themselves.
const INO_BITS: u32 = 48;
/// Most file systems below the root that get a number of their own.
const DEVS_MAX: usize = 1 << (u64::BITS - INO_BITS - 1);

/// The server of one share in one session of the driver.
pub struct Server {
    nodes: Nodes,
    handles: Handles,
    root: ShareRoot,
    read_only: bool,
    single_file: SingleFile,
    cache: FsCache,
    headroom: Headroom,
    xattrs: XattrPolicy,
    /// Device numbers of file systems other than the root's, in the order in which they were found.
    devs: Mutex<Vec<u64>>,
    /// INIT came, and no DESTROY after it.
    is_mounted: AtomicBool,
}

impl Server {
    /// A server of an open directory, which is not read, in a process that may have `limit` descriptors; `budget`
    /// bounds those that are kept open to save work.
    pub fn new(root: ShareRoot, config: &FsDeviceConfig, limit: RawFd, budget: Budget) -> io::Result<Self> {
        let (fd, proc) = (root.as_fd().try_clone_to_owned()?, root.proc().try_clone_to_owned()?);
        Ok(Self {
            nodes: Nodes::new(fd, proc, budget)?,
            handles: Handles::default(),
            root,
            read_only: config.read_only,
            single_file: SingleFile::new(config.single_file.as_deref())?,
            cache: config.cache,
            headroom: Headroom::new(limit),
            xattrs: XattrPolicy { privileges: config.privileges, trusted: config.trusted_xattrs },
            devs: Mutex::new(Vec::new()),
            is_mounted: AtomicBool::new(false),
        })
    }

    /// Executes the request in a chain. Returns the number of bytes of the reply.
    pub fn handle(&self, chain: &Chain, mem: &GuestMemoryMmap<()>) -> u32 {
        let request = match Request::read(chain, mem) {
            Ok(request) => request,
            Err(Refusal::Unreadable) => return 0,
            Err(Refusal::Error(head, errno)) => return write_error(&head, errno, chain, mem),
        };
        let reply = self.execute(&request, chain, mem);
        if request.opcode.is_answered() {
            write_reply(&request.head, reply, chain, mem)
        } else {
            0
        }
    }

    fn execute(&self, request: &Request<'_>, chain: &Chain, mem: &GuestMemoryMmap<()>) -> io::Result<Reply> {
        let opcode = request.opcode;
        if opcode == Opcode::Init {
            return self.init(request);
        }
        if !self.is_mounted.load(Ordering::Acquire) {
            return Err(errno(libc::EBADF));
        }
        match opcode {
            Opcode::Init | Opcode::Interrupt => Ok(Reply::empty()),
            Opcode::Destroy => {
                self.is_mounted.store(false, Ordering::Release);
                self.handles.clear();
                self.nodes.clear();
                Ok(Reply::empty())
            }
            Opcode::Forget => {
                let body: ForgetIn = request.arguments().object()?;
                self.nodes.forget(request.head.nodeid, body.nlookup);
                Ok(Reply::empty())
            }
            Opcode::BatchForget => {
                let mut arguments = request.arguments();
                let body: BatchForgetIn = arguments.object()?;
                for _ in 0..body.count {
                    let one: ForgetOne = arguments.object()?;
                    self.nodes.forget(one.nodeid, one.nlookup);
                }
                Ok(Reply::empty())
            }
            Opcode::Lookup => self.lookup(request),
            Opcode::Readlink => self.readlink(request),
            Opcode::Symlink => self.symlink(request),
            Opcode::Mknod => self.mknod(request),
            Opcode::Mkdir => self.mkdir(request),
            Opcode::Unlink => self.unlink(request, false),
            Opcode::Rmdir => self.unlink(request, true),
            Opcode::Rename | Opcode::Rename2 => self.rename(request),
            Opcode::Link => self.link(request),
            Opcode::Getattr => self.getattr(request),
            Opcode::Setattr => self.setattr(request),
            Opcode::Statfs => self.statfs(request),
            Opcode::Access => self.access(request),
            Opcode::Open => self.open(request),
            Opcode::Create => self.create(request),
            Opcode::Tmpfile => self.tmpfile(request),
            Opcode::Read => self.read(request, chain, mem),
            Opcode::Write => self.write(request),
            Opcode::Flush => self.flush(request),
            Opcode::Fsync | Opcode::Fsyncdir => self.fsync(request),
            Opcode::Release | Opcode::Releasedir => self.release(request),
            Opcode::Fallocate => self.fallocate(request),
            Opcode::Lseek => self.lseek(request),
            Opcode::CopyFileRange => self.copy_file_range(request),
            Opcode::Opendir => self.opendir(request),
            Opcode::Readdir => self.readdir(request, chain, false),
            Opcode::Readdirplus => self.readdir(request, chain, true),
            Opcode::Setxattr => self.setxattr(request),
            Opcode::Getxattr => self.getxattr(request),
            Opcode::Listxattr => self.listxattr(request),
            Opcode::Removexattr => self.removexattr(request),
        }
    }

    /// Starts a session: agrees on what both sides can do.
    fn init(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let body: InitIn = arguments.object()?;
        if body.major < abi::MAJOR || body.major == abi::MAJOR && body.minor < abi::MINOR_MIN {
            return Err(errno(libc::EPROTO));
        }
        let mut offered = u64::from(body.flags);
        if offered & init::INIT_EXT != 0 {
            let more: InitIn2 = arguments.object()?;
            offered |= u64::from(more.flags2) << 32;
        }
        let flags = offered & self.features();
        self.handles.clear();
        self.nodes.clear();
        self.is_mounted.store(true, Ordering::Release);
        Ok(Reply::object(&InitOut {
            major: abi::MAJOR,
            minor: abi::MINOR,
            max_readahead: body.max_readahead,
            #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
            flags: flags as u32,
            max_background: BACKGROUND,
            congestion_threshold: CONGESTION,
            max_write: DATA_MAX,
            time_gran: 1,
            max_pages: PAGES_MAX,
            flags2: (flags >> 32) as u32,
            ..InitOut::default()
        }))
    }

    fn features(&self) -> u64 {
        let always = init::INIT_EXT
            | init::ASYNC_READ
            | init::ASYNC_DIO
            | init::ATOMIC_O_TRUNC
            | init::BIG_WRITES
            | init::MAX_PAGES
            | init::PARALLEL_DIROPS
            | init::CACHE_SYMLINKS
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::HANDLE_KILLPRIV_V2
            | init::CREATE_SUPP_GROUP;
        match self.cache {
            FsCache::Auto => always | init::AUTO_INVAL_DATA,
            FsCache::Always => always,
            FsCache::Never => always | init::AUTO_INVAL_DATA | init::DIRECT_IO_ALLOW_MMAP,
        }
    }

    /// Fails in a read-only share.
    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            Err(errno(libc::EROFS))
        } else {
            Ok(())
        }
    }

    /// Fails unless the guest may change the entries of a directory or the attributes of a file.
    fn changeable(&self, id: u64) -> io::Result<()> {
        self.writable()?;
        self.single_file.deny_change(id)
    }

    /// Fails if there is no room for another file of the guest's.
    fn room(&self) -> io::Result<()> {
        self.headroom.check(&self.root)
    }

    /// An inode number that is unique in the share.
    fn number(&self, dev: u64, ino: u64) -> u64 {
        if dev == self.root.dev() {
            return ino;
        }
        let mut devs = self.devs.lock().unwrap_or_else(PoisonError::into_inner);
        let index = devs.iter().position(|known| *known == dev).or_else(|| {
            (devs.len() < DEVS_MAX).then(|| {
                devs.push(dev);
                devs.len() - 1
            })
        });
        index.map_or(ino, |index| ino ^ (index as u64 + 1) << INO_BITS)
    }
}

/// Opens a file once more by its descriptor.
fn open_again(proc: &OwnedFd, file: impl AsFd, flags: libc::c_int) -> io::Result<File> {
    #[cfg(test)]
    faults::check(&file, faults::Operation::Open)?;
    let name = proc_name(file);
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    Ok(openat(proc, name.as_c_str(), flags, Mode::empty())?.into())
}

/// The name of an open file in `/proc/self/fd`.
fn proc_name(file: impl AsFd) -> CString {
    CString::new(file.as_fd().as_raw_fd().to_string()).expect("digits")
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
