//! Attributes of files: reading and changing them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::AtFlags;
use nix::sys::stat::{fchmodat, utimensat, FchmodatFlags, UtimensatFlags};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{fchownat, ftruncate, Gid, Uid};

use super::super::creds::OrdinaryUser;
use super::super::privileges::FsPrivileges;
use super::abi::{fattr, AccessIn, Attr, AttrOut, GetattrIn, SetattrIn, StatfsOut, GETATTR_FH};
use super::message::{Reply, Request};
use super::names::permissions;
use super::{errno, open_again, proc_name, sys, Server};
#[cfg(test)]
use crate::virtio::faults;

/// Set-id bits.
const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

impl Server {
    /// Attributes as the guest sees them.
    pub(super) fn attributes(&self, stat: &libc::statx) -> Attr {
        let time = |time: &libc::statx_timestamp| (time.tv_sec.cast_unsigned(), time.tv_nsec);
        let (atime, atimensec) = time(&stat.stx_atime);
        let (mtime, mtimensec) = time(&stat.stx_mtime);
        let (ctime, ctimensec) = time(&stat.stx_ctime);
        // The kernel's 32-bit form of device numbers (new_encode_dev).
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let rdev = minor & 0xff | major << 8 | (minor & !0xff) << 12;
        Attr {
            ino: self.number(libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime,
            mtime,
            ctime,
            atimensec,
            mtimensec,
            ctimensec,
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev,
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }

    fn attributes_reply(&self, stat: &libc::statx) -> Reply {
        let valid = self.cache.timeout();
        Reply::object(&AttrOut {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            dummy: 0,
            attr: self.attributes(stat),
        })
    }

    pub(super) fn getattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: GetattrIn = request.arguments().object()?;
        let id = request.head.nodeid;
        let stat = if body.getattr_flags & GETATTR_FH != 0 {
            sys::stat_open(&*self.handles.get(body.fh, id)?.file)?
        } else {
            sys::stat_open(&*self.nodes.descriptor(id)?)?
        };
        Ok(self.attributes_reply(&stat))
    }

    pub(super) fn setattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: SetattrIn = request.arguments().object()?;
        let id = request.head.nodeid;
        self.changeable(id)?;
        let handle = (body.valid & fattr::FH != 0).then(|| self.handles.get(body.fh, id)).transpose()?;
        let file = self.nodes.descriptor(id)?;
        if body.valid & fattr::MODE != 0 {
            let kind = u32::from(sys::stat_open(&*file)?.stx_mode);
            let mode = permissions(self.xattrs.privileges.mode(kind, body.mode));
            // Through the name in /proc: the descriptor itself has no access to the file.
            let name = proc_name(&*file);
            fchmodat(self.nodes.proc(), name.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if body.valid & (fattr::UID | fattr::GID) != 0 {
            let owner = (body.valid & fattr::UID != 0).then(|| Uid::from_raw(body.uid));
            let group = (body.valid & fattr::GID != 0).then(|| Gid::from_raw(body.gid));
            fchownat(&*file, c"", owner, group, AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if body.valid & fattr::SIZE != 0 {
            self.truncate(&file, handle.map(|handle| handle.file.clone()), &body)?;
        }
        let times = fattr::ATIME | fattr::MTIME | fattr::ATIME_NOW | fattr::MTIME_NOW;
        if body.valid & times != 0 {
            let time = |set, now, secs: u64, nanos: u32| match body.valid {
                valid if valid & now != 0 => TimeSpec::UTIME_NOW,
                valid if valid & set != 0 => TimeSpec::new(secs.cast_signed(), nanos.into()),
                _ => TimeSpec::UTIME_OMIT,
            };
            let atime = time(fattr::ATIME, fattr::ATIME_NOW, body.atime, body.atimensec);
            let mtime = time(fattr::MTIME, fattr::MTIME_NOW, body.mtime, body.mtimensec);
            let name = proc_name(&*file);
            utimensat(self.nodes.proc(), name.as_c_str(), &atime, &mtime, UtimensatFlags::FollowSymlink)?;
        }
        Ok(self.attributes_reply(&sys::stat_open(&*file)?))
    }

    fn truncate(&self, file: &OwnedFd, open: Option<Arc<File>>, body: &SetattrIn) -> io::Result<()> {
        let size = i64::try_from(body.size).map_err(|_| errno(libc::EFBIG))?;
        let stat = sys::stat_open(file)?;
        if u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFREG {
            return Err(errno(libc::EINVAL));
        }
        self.strip(file, &stat)?;
        let _user = ordinary_user(&stat, body.valid & fattr::KILL_SUIDGID != 0)?;
        let open = match open {
            Some(open) => open,
            None => Arc::new(open_again(self.nodes.proc(), file, libc::O_RDWR | libc::O_NONBLOCK)?),
        };
        #[cfg(test)]
        faults::check(&*open, faults::Operation::Truncate)?;
        Ok(ftruncate(&*open, size)?)
    }

    /// Removes the set-id bits of a file before the guest may write to it, if this share does not keep them. The kernel
    /// would let them be: the server has CAP_FSETID.
    pub(super) fn strip(&self, file: &OwnedFd, stat: &libc::statx) -> io::Result<()> {
        let (privileges, mode) = (self.xattrs.privileges, u32::from(stat.stx_mode));
        if privileges != FsPrivileges::Keep && privileges.is_stripped(mode) {
            let name = proc_name(file);
            let mode = permissions(privileges.mode(mode, mode));
            fchmodat(self.nodes.proc(), name.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }

    pub(super) fn statfs(&self, request: &Request<'_>) -> io::Result<Reply> {
        let stat = fstatvfs(&*self.nodes.descriptor(request.head.nodeid)?)?;
        let word = |value: libc::c_ulong| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Reply::object(&StatfsOut {
            blocks: stat.blocks(),
            bfree: stat.blocks_free(),
            bavail: stat.blocks_available(),
            files: stat.files(),
            ffree: stat.files_free(),
            bsize: word(stat.block_size()),
            namelen: word(stat.name_max()),
            frsize: word(stat.fragment_size()),
            ..StatfsOut::default()
        }))
    }

    /// Linux checks permissions itself and does not ask.
    pub(super) fn access(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: AccessIn = request.arguments().object()?;
        let mask = body.mask & 0o7;
        if mask & libc::W_OK.cast_unsigned() != 0 {
            self.writable()?;
        }
        let stat = sys::stat_open(&*self.nodes.descriptor(request.head.nodeid)?)?;
        let mode = u32::from(stat.stx_mode);
        let allowed = match request.head.uid {
            0 if mode & 0o111 != 0 => 0o7,
            0 => 0o6,
            uid if uid == stat.stx_uid => mode >> 6,
            _ if request.head.gid == stat.stx_gid => mode >> 3,
            _ => mode,
        };
        if mask & !allowed == 0 {
            Ok(Reply::empty())
        } else {
            Err(errno(libc::EACCES))
        }
    }
}

/// Makes the calling thread an ordinary user for a change of a file's contents, if the guest asks for it and it makes a
/// difference.
pub(super) fn ordinary_user(stat: &libc::statx, wanted: bool) -> io::Result<Option<OrdinaryUser>> {
    if wanted && u32::from(stat.stx_mode) & SET_IDS != 0 {
        OrdinaryUser::enter()
    } else {
        Ok(None)
    }
}
