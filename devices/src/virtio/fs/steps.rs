//! Steps that several operations of a share have in common.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem, SetattrValid};

use super::creds::GuestUser;
use super::descriptor;
use super::privileges::FsPrivileges;
use super::share::ShareFs;

/// Position of the number of a file system in an inode number. Only exotic file systems use these bits themselves.
const INO_BITS: u32 = 48;
/// Most file systems below the root that get a number of their own.
const DEVS_MAX: usize = 1 << (u64::BITS - INO_BITS - 1);
/// Most directory entries in a row that may vanish while they are read.
const VANISHED_MAX: usize = 16;

impl ShareFs {
    /// Makes the inode number in `stat` unique in the share.
    pub(super) fn number(&self, stat: &mut stat64) {
        if stat.st_dev == self.root.dev() {
            return;
        }
        let mut devs = self.devs.lock().unwrap_or_else(PoisonError::into_inner);
        let index = devs.iter().position(|dev| *dev == stat.st_dev).or_else(|| {
            (devs.len() < DEVS_MAX).then(|| {
                devs.push(stat.st_dev);
                devs.len() - 1
            })
        });
        if let Some(index) = index {
            stat.st_ino ^= (index as u64 + 1) << INO_BITS;
        }
    }

    pub(super) fn numbered(&self, mut entry: Entry) -> Entry {
        self.number(&mut entry.attr);
        entry
    }

    /// Creates an entry in a directory for a user of the guest.
    pub(super) fn make(
        &self,
        context: &Context,
        parent: u64,
        operation: impl FnOnce(&Context) -> io::Result<Entry>,
    ) -> io::Result<Entry> {
        self.changeable(parent)?;
        self.room()?;
        let _user = GuestUser::enter(context.uid, context.gid)?;
        operation(&Context::new()).map(|entry| self.numbered(entry))
    }

    /// Removes the set-id bits of a file before the guest may write to it, if this share does not keep them. The kernel
    /// would let them be: the server has CAP_FSETID.
    pub(super) fn strip(&self, context: &Context, inode: u64) -> io::Result<()> {
        let privileges = self.xattrs.privileges;
        if privileges == FsPrivileges::Keep {
            return Ok(());
        }
        let (mut stat, _) = self.inner.getattr(context, inode, None)?;
        if privileges.is_stripped(stat.st_mode) {
            stat.st_mode = privileges.mode(stat.st_mode, stat.st_mode) & !libc::S_IFMT;
            self.inner.setattr(context, inode, stat, None, SetattrValid::MODE)?;
        }
        Ok(())
    }

    /// Does the same for an entry that may exist.
    pub(super) fn strip_entry(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        if self.xattrs.privileges == FsPrivileges::Keep {
            return Ok(());
        }
        let Ok(entry) = self.inner.lookup(context, parent, name) else { return Ok(()) };
        let result = self.strip(context, entry.inode);
        self.inner.forget(context, entry.inode, 1);
        result
    }

    /// Makes a hard link without CAP_DAC_READ_SEARCH.
    pub(super) fn link_by_name(
        &self,
        context: &Context,
        inode: u64,
        newparent: u64,
        newname: &CStr,
    ) -> io::Result<Entry> {
        let open = |inode| {
            let (stat, _) = self.inner.getattr(context, inode, None)?;
            descriptor::of_inode(&self.inner, inode, &stat)
        };
        let (file, directory) = (open(inode)?, open(newparent)?);
        descriptor::link(&file, directory.as_fd(), newname)?;
        self.inner.lookup(context, newparent, newname)
    }

    /// Reads a directory. If the directory changes meanwhile, the first entry may fail; the next attempt does not find
    /// it any more.
    pub(super) fn read_directory(
        &self,
        context: &Context,
        (inode, handle): (u64, u64),
        (size, offset): (u32, u64),
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.room()?;
        if let Some(name) = self.single_file.name_in(inode) {
            if offset == 0 {
                // If the file is gone or is not a regular file any more, the directory is empty.
                if let Ok(entry) = self.lookup(context, inode, name) {
                    let (type_, node) = (u32::from(libc::DT_REG), entry.inode);
                    let name = DirEntry { ino: entry.attr.st_ino, offset: 1, type_, name: name.to_bytes() };
                    if add(name, entry)? == 0 {
                        self.inner.forget(context, node, 1);
                    }
                }
            }
            return Ok(());
        }
        let mut added = false;
        let mut each = |mut name: DirEntry<'_>, entry: Entry| {
            if added && self.room().is_err() {
                return Ok(0);
            }
            added = true;
            let entry = self.numbered(entry);
            name.ino = entry.attr.st_ino;
            add(name, entry)
        };
        for _ in 0..VANISHED_MAX {
            match self.inner.readdirplus(context, inode, handle, size, offset, &mut each) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        Ok(())
    }
}
