//! A share of a single file: its root directory seems to hold that file and nothing else, and is not to be changed.
//!
//! The kernel mounts directories only, so the device shares the one that holds the file and answers for nothing else
//! in it. The name is looked up anew each time: a file that the host replaces is seen, as in a shared directory.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use fuse_backend_rs::abi::fuse_abi::ROOT_ID;
use fuse_backend_rs::api::filesystem::Entry;

/// The name of the file, if the share is of one file.
#[derive(Debug)]
pub struct SingleFile(Option<CString>);

impl SingleFile {
    /// `None`: no restriction.
    ///
    /// # Errors
    /// `InvalidInput` if it is not the name of a file.
    pub fn new(name: Option<&OsStr>) -> io::Result<Self> {
        let Some(name) = name else { return Ok(Self(None)) };
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(Some(CString::new(bytes)?)))
    }

    /// Whether `name` may be looked up in `parent`.
    ///
    /// # Errors
    /// `ENOENT`: for the guest there is nothing else.
    pub fn check_lookup(&self, parent: u64, name: &CStr) -> io::Result<()> {
        match self.name_in(parent) {
            Some(single_file) if single_file != name => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            _ => Ok(()),
        }
    }

    /// Whether what was found in `parent` is no regular file any more. A directory or a link in its place would lead
    /// further.
    pub fn is_unexpected_type(&self, parent: u64, entry: &Entry) -> bool {
        self.name_in(parent).is_some() && entry.attr.st_mode & libc::S_IFMT != libc::S_IFREG
    }

    /// Leaves the directory that holds the file alone.
    ///
    /// # Errors
    /// `EPERM` for that directory.
    pub fn deny_change(&self, inode: u64) -> io::Result<()> {
        match self.name_in(inode) {
            Some(_) => Err(io::Error::from_raw_os_error(libc::EPERM)),
            None => Ok(()),
        }
    }

    /// The one name, if `inode` is the directory that holds it.
    pub fn name_in(&self, inode: u64) -> Option<&CStr> {
        self.0.as_deref().filter(|_| inode == ROOT_ID)
    }
}
