//! Look-ups, and operations that change names.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::{readlinkat, AtFlags};
use nix::sys::stat::{mkdirat, mknodat, Mode, SFlag};
use nix::unistd::{linkat, symlinkat, unlinkat, UnlinkatFlags};

use super::super::config::FsCache;
use super::super::creds::GuestUser;
use super::super::privileges::check_node;
use super::abi::{EntryOut, LinkIn, MkdirIn, MknodIn, Opcode, Rename2In, RenameIn};
use super::message::{Bytes, Reply, Request};
use super::nodes::Identity;
use super::{errno, proc_name, sys, Server};

impl Server {
    /// The reply about a file that was found as `name` in `directory`. The guest has one more reference to it.
    pub(super) fn entry(&self, directory: u64, name: &CStr, stat: &libc::statx) -> io::Result<EntryOut> {
        let nodeid = self.nodes.found(Identity::of(stat), directory, name)?;
        Ok(self.entry_of(nodeid, stat))
    }

    pub(super) fn entry_of(&self, nodeid: u64, stat: &libc::statx) -> EntryOut {
        let valid = self.cache.timeout();
        EntryOut {
            nodeid,
            generation: 0,
            entry_valid: valid.as_secs(),
            attr_valid: valid.as_secs(),
            entry_valid_nsec: valid.subsec_nanos(),
            attr_valid_nsec: valid.subsec_nanos(),
            attr: self.attributes(stat),
        }
    }

    fn entry_reply(&self, directory: u64, open: &OwnedFd, name: &CStr) -> io::Result<Reply> {
        let stat = sys::stat_entry(open, name)?;
        Ok(Reply::object(&self.entry(directory, name, &stat)?))
    }

    pub(super) fn lookup(&self, request: &Request<'_>) -> io::Result<Reply> {
        let (directory, name) = (request.head.nodeid, request.arguments().name()?);
        match self.find(directory, name) {
            // An entry without a node: the guest may cache that the name does not exist.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && self.cache == FsCache::Always => {
                let entry_valid = self.cache.timeout().as_secs();
                Ok(Reply::object(&EntryOut { entry_valid, ..EntryOut::default() }))
            }
            Err(error) => Err(error),
            Ok(stat) => Ok(Reply::object(&self.entry(directory, name, &stat)?)),
        }
    }

    /// The attributes of an entry that the guest may see.
    pub(super) fn find(&self, directory: u64, name: &CStr) -> io::Result<libc::statx> {
        self.single_file.check_lookup(directory, name)?;
        let stat = sys::stat_entry(&*self.nodes.descriptor(directory)?, name)?;
        if self.single_file.is_unexpected_type(directory, stat.stx_mode.into()) {
            return Err(errno(libc::ENOENT));
        }
        Ok(stat)
    }

    pub(super) fn readlink(&self, request: &Request<'_>) -> io::Result<Reply> {
        let link = self.nodes.descriptor(request.head.nodeid)?;
        let target = readlinkat(&*link, c"")?;
        Ok(Reply::bytes(Bytes::from_vec(target.into_vec())))
    }

    /// Creates an entry in a directory for a user of the guest.
    fn make(
        &self,
        request: &Request<'_>,
        name: &CStr,
        operation: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<Reply> {
        let id = request.head.nodeid;
        self.changeable(id)?;
        let directory = self.nodes.descriptor(id)?;
        {
            let _user = Self::user(request)?;
            operation(&directory)?;
        }
        self.entry_reply(id, &directory, name)
    }

    /// The calling thread becomes the user that sent the request.
    pub(super) fn user(request: &Request<'_>) -> io::Result<Option<GuestUser>> {
        GuestUser::enter(request.head.uid, request.head.gid, &request.groups()?)
    }

    pub(super) fn symlink(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (name, target) = (arguments.name()?, arguments.string()?);
        self.make(request, name, |directory| Ok(symlinkat(target, directory, name)?))
    }

    pub(super) fn mknod(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (MknodIn, _) = (arguments.object()?, arguments.name()?);
        self.writable()?;
        check_node(body.mode, body.rdev)?;
        let mode = self.xattrs.privileges.mode(body.mode, body.mode) & !body.umask;
        let (kind, mode) = (SFlag::from_bits_retain(mode & libc::S_IFMT), permissions(mode));
        // A whiteout has the number 0; other files have none.
        self.make(request, name, |directory| Ok(mknodat(directory, name, kind, mode, 0)?))
    }

    pub(super) fn mkdir(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (MkdirIn, _) = (arguments.object()?, arguments.name()?);
        let mode = permissions(body.mode & !body.umask);
        self.make(request, name, |directory| Ok(mkdirat(directory, name, mode)?))
    }

    pub(super) fn unlink(&self, request: &Request<'_>, is_directory: bool) -> io::Result<Reply> {
        let (id, name) = (request.head.nodeid, request.arguments().name()?);
        self.changeable(id)?;
        let directory = self.nodes.descriptor(id)?;
        let flag = if is_directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        // The guest may still use the file: pin it as long as it can be found.
        let victim = self.nodes.pin_entry(&*directory, name);
        let result = unlinkat(&*directory, name, flag);
        if let Some(victim) = victim {
            match result {
                Ok(()) => self.nodes.unlinked(victim, id, name),
                Err(_) => self.nodes.unpin(victim),
            }
        }
        result?;
        Ok(Reply::empty())
    }

    pub(super) fn rename(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (newdir, flags) = if request.opcode == Opcode::Rename {
            (arguments.object::<RenameIn>()?.newdir, 0)
        } else {
            let body: Rename2In = arguments.object()?;
            (body.newdir, body.flags)
        };
        let (olddir, oldname, newname) = (request.head.nodeid, arguments.name()?, arguments.name()?);
        self.changeable(olddir)?;
        self.changeable(newdir)?;
        let (from, to) = (self.nodes.descriptor(olddir)?, self.nodes.descriptor(newdir)?);
        let moved = sys::stat_entry(&*from, oldname)?;
        let moved = self.nodes.number(&Identity::of(&moved));
        let victim = self.nodes.pin_entry(&*to, newname);
        let result = sys::rename(&*from, oldname, &*to, newname, flags);
        // Two names of one file stay as they are.
        match (&result, victim) {
            (Ok(()), Some(victim)) if moved == Some(victim) => self.nodes.unpin(victim),
            (Ok(()), Some(victim)) if flags & libc::RENAME_EXCHANGE != 0 => {
                self.nodes.renamed(victim, olddir, oldname);
            }
            (Ok(()), Some(victim)) => self.nodes.unlinked(victim, newdir, newname),
            (Err(_), Some(victim)) => self.nodes.unpin(victim),
            (_, None) => {}
        }
        result?;
        if let Some(moved) = moved.filter(|moved| Some(*moved) != victim) {
            self.nodes.renamed(moved, newdir, newname);
        }
        Ok(Reply::empty())
    }

    pub(super) fn link(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (LinkIn, _) = (arguments.object()?, arguments.name()?);
        let newdir = request.head.nodeid;
        self.changeable(newdir)?;
        let (file, directory) = (self.nodes.descriptor(body.oldnodeid)?, self.nodes.descriptor(newdir)?);
        // By the file's name in /proc: with AT_EMPTY_PATH the kernel wants CAP_DAC_READ_SEARCH or, from Linux 6.10, the
        // very credentials that opened the file.
        let source = proc_name(&*file);
        linkat(self.nodes.proc(), source.as_c_str(), &*directory, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        self.entry_reply(newdir, &directory, name)
    }
}

/// Permission and set-id bits of a mode.
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}
