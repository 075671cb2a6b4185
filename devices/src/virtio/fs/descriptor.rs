//! Descriptors of the library's inodes, which it does not hand out: for system calls that it does not make, or not in the
//! form that is needed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::abi::virtio_fs::RemovemappingOne;
use fuse_backend_rs::api::filesystem::{Context, FileSystem};
use fuse_backend_rs::passthrough::PassthroughFs;
use fuse_backend_rs::transport::FsCacheReqHandler;

use super::sys;

/// Keeps the descriptor that the library opens for a mapping. Nothing is mapped.
#[derive(Default)]
struct Catch(Option<io::Result<OwnedFd>>);

impl FsCacheReqHandler for Catch {
    fn map(&mut self, _: u64, _: u64, _: u64, _: u64, fd: RawFd) -> io::Result<()> {
        self.0 = Some(sys::duplicate(fd));
        Ok(())
    }

    fn unmap(&mut self, _: Vec<RemovemappingOne>) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor of the file behind `inode`, which is `stat`.
///
/// The library opens regular files and directories for reading. For other files, and for those that the process may
/// not read, the path is opened that the kernel has for the inode; what is found there must be the same file, for a guest
/// may change the path at any time.
pub fn of_inode(inner: &PassthroughFs<()>, inode: u64, stat: &stat64) -> io::Result<OwnedFd> {
    if [libc::S_IFREG, libc::S_IFDIR].contains(&(stat.st_mode & libc::S_IFMT)) {
        let mut caught = Catch::default();
        let opened = inner.setupmapping(&Context::new(), inode, 0, 0, 0, 0, 0, &mut caught);
        if let (Ok(()), Some(Ok(fd))) = (opened, caught.0) {
            return Ok(fd);
        }
    }
    let path = CString::new(inner.readlinkat_proc_file(inode)?.as_os_str().as_bytes())?;
    let file = File::from(sys::open_path(&path)?);
    let found = file.metadata()?;
    if (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino) {
        Ok(file.into())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Makes a hard link to `file` in `directory`, by the file's name in `/proc`: with `AT_EMPTY_PATH` the kernel wants
/// CAP_DAC_READ_SEARCH or, from Linux 6.10, the very credentials that opened the file.
pub fn link(file: &OwnedFd, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    sys::link_following(&path, directory, name)
}
