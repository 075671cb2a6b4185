//! The power that files made by a guest have on the host: device nodes, set-id bits, and extended attributes that the
//! host's kernel obeys.
//!
//! | | [`FsPrivileges::Keep`] | [`FsPrivileges::Strip`] |
//! |---|---|---|
//! | device nodes | refused but for whiteouts (character device 0:0) | the same |
//! | pipes and sockets | made | made |
//! | setuid bit; setgid bit of a file | kept | dropped; also when a file of the host is opened for writing |
//! | setgid bit of a directory | kept | kept; what is made in it gets its group |
//! | `security.*`, such as file capabilities | set and removed | removed only |
//! | `trusted.*` | hidden, unless the share allows it | the same |
//!
//! Execution obeys a setgid bit only if the group may execute the file. Without that the bit meant mandatory locking until
//! Linux 5.15, and means nothing since (fcntl(2)). It is dropped all the same: `chmod g+x` on the host would put it into
//! force. A directory's bit only decides which group its files get.

use std::ffi::CStr;
use std::io;

/// The power of files in a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsPrivileges {
    /// Set-id bits and `security.*` attributes are stored as the guest sets them. For directories that only this guest
    /// uses, such as the root of a container: a program like `sudo` needs them there.
    #[default]
    Keep,
    /// Files that the guest makes or changes get no power over the host: no set-id bits, no file capabilities. For
    /// directories of the host that others use too.
    Strip,
}

/// Set-id bits.
const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

impl FsPrivileges {
    /// The mode that a file of type `kind` gets instead of `mode`. The type must be the host's: a guest may send any.
    pub(super) fn mode(self, kind: u32, mode: u32) -> u32 {
        if self == Self::Strip && kind & libc::S_IFMT != libc::S_IFDIR {
            mode & !SET_IDS
        } else {
            mode
        }
    }

    /// Whether a file with this type and mode must lose its set-id bits before the guest may write to it.
    pub(super) fn is_stripped(self, mode: u32) -> bool {
        mode & libc::S_IFMT == libc::S_IFREG && self.mode(mode, mode) != mode
    }
}

/// Fails with `EPERM` for a device node that is not a whiteout of an overlay file system.
pub(super) fn check_node(mode: u32, rdev: u32) -> io::Result<()> {
    match mode & libc::S_IFMT {
        libc::S_IFBLK => Err(denied()),
        libc::S_IFCHR if rdev != 0 => Err(denied()),
        _ => Ok(()),
    }
}

/// The extended attributes that a guest may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrPolicy {
    /// The privileges of files.
    pub(super) privileges: FsPrivileges,
    /// `trusted.*` is allowed.
    pub(super) trusted: bool,
}

impl XattrPolicy {
    /// Fails with `EPERM` if the guest may not set the attribute.
    pub(super) fn check_set(self, name: &CStr) -> io::Result<()> {
        let security = self.privileges == FsPrivileges::Strip && name.to_bytes().starts_with(b"security.");
        if security || self.hides(name.to_bytes()) {
            Err(denied())
        } else {
            Ok(())
        }
    }

    /// Fails with `EPERM` if the guest may not remove the attribute.
    pub(super) fn check_remove(self, name: &CStr) -> io::Result<()> {
        if self.hides(name.to_bytes()) {
            Err(denied())
        } else {
            Ok(())
        }
    }

    /// Fails with `ENODATA` if the guest may not see the attribute.
    pub(super) fn check_get(self, name: &CStr) -> io::Result<()> {
        if self.hides(name.to_bytes()) {
            Err(io::Error::from_raw_os_error(libc::ENODATA))
        } else {
            Ok(())
        }
    }

    /// Removes the names that the guest may not see from a list of names, each with a NUL at its end.
    pub(super) fn visible(self, names: Vec<u8>) -> Vec<u8> {
        let hidden = |name: &[u8]| self.hides(name);
        if names.split_inclusive(|byte| *byte == 0).any(hidden) {
            names.split_inclusive(|byte| *byte == 0).filter(|name| !hidden(name)).flatten().copied().collect()
        } else {
            names
        }
    }

    /// Like the kernel does for a process without CAP_SYS_ADMIN.
    fn hides(self, name: &[u8]) -> bool {
        !self.trusted && name.starts_with(b"trusted.")
    }
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

#[cfg(test)]
#[path = "privileges_tests.rs"]
mod tests;
