//! The file system that the guest sees: `fuse-backend-rs`' passthrough of a directory with stricter checks. The
//! device's threads call it.
//!
//! * The guest cannot leave the directory: names are single components, `.` and `..` are refused, special files are
//!   never opened.
//! * A read-only share refuses every change here, in addition to the read-only mount where there is one.
//! * Files of the guest get no more power on the host than the share allows: `privileges`.
//! * Open flags that a guest must not use are dropped.
//! * Sizes that the guest chooses are bounded before anything of that size is allocated.
//! * Operations that keep a descriptor open are refused when the process would run short of descriptors.
//! * Files of different file systems below the root do not share inode numbers.

use std::ffi::CStr;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{stat64, statvfs64, CreateIn};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{Config, PassthroughFs};

use super::config::{FsCache, FsDeviceConfig};
use super::creds::GuestUser;
use super::limit::Headroom;
use super::privileges::{check_node, FsPrivileges, XattrPolicy};
use super::root::ShareRoot;
use super::single_file::SingleFile;
use super::sys;

/// Longest extended attribute and longest list of them in Linux (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: u32 = 65536;
/// Flags of `open(2)` that a guest may choose. Left out are `O_CREAT` and `O_TMPFILE`, which have their own requests;
/// `O_PATH`, which makes a descriptor that cannot be read; `O_ASYNC`, which causes signals; `O_NOATIME`, which only the
/// owner may use; and `O_DIRECT`, which concerns the guest's cache only: host files need not support it.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_TRUNC
    | libc::O_DIRECTORY
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_LARGEFILE;
/// The flags of [`OPEN_FLAGS`] that an open file can have.
const STATUS_FLAGS: i32 = OPEN_FLAGS & !(libc::O_TRUNC | libc::O_DIRECTORY);

/// A directory as a FUSE file system.
pub struct ShareFs {
    pub(super) inner: PassthroughFs<()>,
    /// Keeps the path alive that `inner` uses.
    pub(super) root: ShareRoot,
    pub(super) read_only: bool,
    pub(super) single_file: SingleFile,
    pub(super) cache: FsCache,
    pub(super) headroom: Headroom,
    pub(super) xattrs: XattrPolicy,
    /// Device numbers of file systems other than the root's, in the order in which they were found.
    pub(super) devs: Mutex<Vec<u64>>,
}

impl ShareFs {
    /// A file system of an open directory, which is not read. Needs `/proc`.
    pub fn new(root: ShareRoot, config: &FsDeviceConfig) -> io::Result<Self> {
        let inner = PassthroughFs::new(Config {
            root_dir: root.path(),
            attr_timeout: config.cache.timeout(),
            entry_timeout: config.cache.timeout(),
            cache_policy: config.cache.policy(),
            xattr: true,
            killpriv_v2: true,
            // The numbers of forgotten files are freed too. Otherwise memory grows with every file ever looked up.
            use_host_ino: true,
            allow_direct_io: false,
            ..Config::default()
        })?;
        Ok(Self {
            inner,
            root,
            read_only: config.read_only,
            single_file: SingleFile::new(config.single_file.as_deref())?,
            cache: config.cache,
            headroom: Headroom::new(sys::open_files_limit()),
            xattrs: XattrPolicy { privileges: config.privileges, trusted: config.trusted_xattrs },
            devs: Mutex::new(Vec::new()),
        })
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            Err(io::Error::from_raw_os_error(libc::EROFS))
        } else {
            Ok(())
        }
    }

    /// Fails unless the guest may change the entries of a directory or the attributes of a file.
    pub(super) fn changeable(&self, inode: u64) -> io::Result<()> {
        self.writable()?;
        self.single_file.deny_change(inode)
    }

    /// Fails if there is no room for another descriptor. Called before every operation that may keep one open.
    pub(super) fn room(&self) -> io::Result<()> {
        self.headroom.check(&self.root)
    }

    /// The flags with which to open a file of the host.
    fn open_flags(&self, flags: u32) -> io::Result<u32> {
        let flags = flags.cast_signed() & OPEN_FLAGS;
        if changes_contents(flags.cast_unsigned()) {
            self.writable()?;
        }
        Ok((flags | libc::O_CLOEXEC).cast_unsigned())
    }
}

/// Fails unless `name` is the name of a directory entry. The guest's kernel resolves `.` and `..` itself.
fn component(name: &CStr) -> io::Result<()> {
    let name = name.to_bytes();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Whether a file opened with these flags can be written or is emptied.
fn changes_contents(flags: u32) -> bool {
    let flags = flags.cast_signed();
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

fn status_flags(flags: u32) -> u32 {
    ((flags.cast_signed() & STATUS_FLAGS) | libc::O_CLOEXEC).cast_unsigned()
}

impl FileSystem for ShareFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let mut wanted = self.inner.init(capable)?;
        wanted.remove(FsOptions::PERFILE_DAX);
        wanted |= FsOptions::INIT_EXT
            | FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::CACHE_SYMLINKS;
        if self.cache != FsCache::Always {
            wanted |= FsOptions::AUTO_INVAL_DATA;
        }
        Ok(wanted)
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        component(name)?;
        self.single_file.check_lookup(parent, name)?;
        self.room()?;
        match self.inner.lookup(context, parent, name) {
            // An entry without a node: the guest may cache that the name does not exist.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.cache == FsCache::Always => {
                Ok(Entry { entry_timeout: self.cache.timeout(), ..Entry::default() })
            }
            Ok(entry) if self.single_file.is_unexpected_type(parent, &entry) => {
                self.inner.forget(context, entry.inode, 1);
                Err(io::Error::from_raw_os_error(libc::ENOENT))
            }
            result => result.map(|entry| self.numbered(entry)),
        }
    }

    fn forget(&self, context: &Context, inode: u64, count: u64) {
        self.inner.forget(context, inode, count);
    }

    fn batch_forget(&self, context: &Context, requests: Vec<(u64, u64)>) {
        self.inner.batch_forget(context, requests);
    }

    fn getattr(&self, context: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        let (mut stat, timeout) = self.inner.getattr(context, inode, handle)?;
        self.number(&mut stat);
        Ok((stat, timeout))
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        self.changeable(inode)?;
        let mut attr = attr;
        if self.xattrs.privileges != FsPrivileges::Keep {
            let (before, _) = self.inner.getattr(context, inode, None)?;
            attr.st_mode = self.xattrs.privileges.mode(before.st_mode, attr.st_mode);
            if valid.contains(SetattrValid::SIZE) {
                self.strip(context, inode)?;
            }
        }
        let (mut stat, timeout) = self.inner.setattr(context, inode, attr, handle, valid)?;
        self.number(&mut stat);
        Ok((stat, timeout))
    }

    fn readlink(&self, context: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.inner.readlink(context, inode)
    }

    fn symlink(&self, context: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        component(name)?;
        self.make(context, parent, |context| self.inner.symlink(context, target, parent, name))
    }

    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        component(name)?;
        self.writable()?;
        check_node(mode, rdev)?;
        let mode = self.xattrs.privileges.mode(mode, mode);
        self.make(context, parent, |context| self.inner.mknod(context, parent, name, mode, rdev, umask))
    }

    fn mkdir(&self, context: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        component(name)?;
        self.make(context, parent, |context| self.inner.mkdir(context, parent, name, mode, umask))
    }

    fn unlink(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        component(name)?;
        self.changeable(parent)?;
        self.inner.unlink(context, parent, name)
    }

    fn rmdir(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        component(name)?;
        self.changeable(parent)?;
        self.inner.rmdir(context, parent, name)
    }

    fn rename(
        &self,
        context: &Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        component(oldname)?;
        component(newname)?;
        self.changeable(olddir)?;
        self.changeable(newdir)?;
        self.inner.rename(context, olddir, oldname, newdir, newname, flags)
    }

    fn link(&self, context: &Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry> {
        component(newname)?;
        self.changeable(newparent)?;
        self.room()?;
        match self.inner.link(context, inode, newparent, newname) {
            // No such file, or no permission to link by descriptor: the kernel says the same for both.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.link_by_name(context, inode, newparent, newname)
            }
            result => result,
        }
        .map(|entry| self.numbered(entry))
    }

    fn open(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let flags = self.open_flags(flags)?;
        self.room()?;
        if changes_contents(flags) {
            self.strip(context, inode)?;
        }
        self.inner.open(context, inode, flags, fuse_flags)
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        component(name)?;
        self.changeable(parent)?;
        self.room()?;
        let exclusive = args.flags & libc::O_EXCL.cast_unsigned();
        let flags = self.open_flags(args.flags)? | exclusive;
        let args = CreateIn { flags, mode: self.xattrs.privileges.mode(libc::S_IFREG, args.mode), ..args };
        if exclusive == 0 && changes_contents(flags) {
            self.strip_entry(context, parent, name)?;
        }
        let _user = GuestUser::enter(context.uid, context.gid)?;
        let (entry, handle, options, passthrough) = self.inner.create(&Context::new(), parent, name, args)?;
        Ok((self.numbered(entry), handle, options, passthrough))
    }

    fn read(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        self.inner.read(context, inode, handle, writer, size, offset, lock_owner, status_flags(flags))
    }

    fn write(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        reader: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        self.writable()?;
        let flags = status_flags(flags);
        self.inner.write(context, inode, handle, reader, size, offset, lock_owner, delayed_write, flags, fuse_flags)
    }

    fn flush(&self, context: &Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.inner.flush(context, inode, handle, lock_owner)
    }

    fn fsync(&self, context: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.inner.fsync(context, inode, datasync, handle)
    }

    fn fallocate(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.writable()?;
        self.inner.fallocate(context, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner.release(context, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn statfs(&self, context: &Context, inode: u64) -> io::Result<statvfs64> {
        self.inner.statfs(context, inode)
    }

    fn setxattr(&self, context: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        self.changeable(inode)?;
        self.xattrs.check_set(name)?;
        self.inner.setxattr(context, inode, name, value, flags)
    }

    fn getxattr(&self, context: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.single_file.deny_change(inode)?;
        self.xattrs.check_get(name)?;
        self.inner.getxattr(context, inode, name, size.min(XATTR_MAX))
    }

    fn listxattr(&self, context: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.single_file.deny_change(inode)?;
        match self.inner.listxattr(context, inode, size.min(XATTR_MAX))? {
            ListxattrReply::Names(names) => Ok(ListxattrReply::Names(self.xattrs.visible(names))),
            // It may count hidden names too: the guest only makes room for so much.
            count @ ListxattrReply::Count(_) => Ok(count),
        }
    }

    fn removexattr(&self, context: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.changeable(inode)?;
        self.xattrs.check_remove(name)?;
        self.inner.removexattr(context, inode, name)
    }

    fn opendir(&self, context: &Context, inode: u64, _flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.room()?;
        self.inner.opendir(context, inode, libc::O_CLOEXEC.cast_unsigned())
    }

    fn readdir(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        // The library's own `readdir` also looks each file up, but returns numbers other than `st_ino`.
        self.read_directory(context, (inode, handle), (size, offset), &mut |name, entry| {
            let result = add_entry(name);
            if !matches!(result, Ok(0)) {
                self.inner.forget(context, entry.inode, 1);
            }
            result
        })
    }

    fn readdirplus(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read_directory(context, (inode, handle), (size, offset), &mut |name, entry| {
            let inode = entry.inode;
            let result = add_entry(name, entry);
            if result.is_err() {
                self.inner.forget(context, inode, 1);
            }
            result
        })
    }

    fn fsyncdir(&self, context: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.inner.fsyncdir(context, inode, datasync, handle)
    }

    fn releasedir(&self, context: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.inner.releasedir(context, inode, flags, handle)
    }

    fn access(&self, context: &Context, inode: u64, mask: u32) -> io::Result<()> {
        if mask & libc::W_OK.cast_unsigned() != 0 {
            self.writable()?;
        }
        self.inner.access(context, inode, mask)
    }

    fn lseek(&self, context: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        self.inner.lseek(context, inode, handle, offset, whence)
    }
}
