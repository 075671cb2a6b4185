//! A share of a single file: its root directory shows only that file, and the guest cannot change the directory.
//!
//! The guest's kernel can only mount directories, so the device shares the directory of the file and hides everything
//! else in it. Every lookup goes to the host: a file that the host replaces is seen, as in a shared directory.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::server::abi::ROOT_ID;

/// The name of the file, or `None` in a share of a whole directory.
#[derive(Debug)]
pub struct SingleFile(Option<CString>);

impl SingleFile {
    /// A share of `name`, or of the whole directory.
    ///
    /// # Errors
    /// `InvalidInput`: `name` is not the name of a file.
    pub fn new(name: Option<&OsStr>) -> io::Result<Self> {
        let Some(name) = name else { return Ok(Self(None)) };
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(Some(CString::new(bytes)?)))
    }

    /// Fails with `ENOENT` unless the guest may look `name` up in `parent`.
    pub fn check_lookup(&self, parent: u64, name: &CStr) -> io::Result<()> {
        match self.name_in(parent) {
            Some(only) if only != name => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            _ => Ok(()),
        }
    }

    /// Whether an entry found in `parent`, which has this mode, is not a regular file any more. A directory or a link in
    /// its place would lead to other files.
    pub fn is_unexpected_type(&self, parent: u64, mode: u32) -> bool {
        self.name_in(parent).is_some() && mode & libc::S_IFMT != libc::S_IFREG
    }

    /// Fails with `EPERM` for the directory of the file, which the guest must not change.
    pub fn deny_change(&self, inode: u64) -> io::Result<()> {
        match self.name_in(inode) {
            Some(_) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            None => Ok(()),
        }
    }

    /// The name of the file, if `inode` is its directory.
    pub fn name_in(&self, inode: u64) -> Option<&CStr> {
        self.0.as_deref().filter(|_| inode == ROOT_ID)
    }
}
