//! Extended attributes. The host's files are reached by their names in `/proc`: a descriptor without access to the file
//! is not accepted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::abi::{GetxattrIn, SetxattrIn};
use super::message::{Bytes, Reply, Request};
use super::{sys, Server};

/// Longest extended attribute and longest list of them in Linux (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: u32 = 65536;

/// A file and its name in `/proc`.
struct Named {
    path: CString,
    _file: Arc<OwnedFd>,
}

impl Server {
    fn named(&self, id: u64) -> io::Result<Named> {
        let file = self.nodes.descriptor(id)?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Named { path, _file: file })
    }

    pub(super) fn setxattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (SetxattrIn, _) = (arguments.object()?, arguments.string()?);
        let value = arguments.bytes(body.size)?;
        self.changeable(request.head.nodeid)?;
        self.xattrs.check_set(name)?;
        sys::set_xattr(&self.named(request.head.nodeid)?.path, name, value, body.flags)?;
        Ok(Reply::empty())
    }

    pub(super) fn getxattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let mut arguments = request.arguments();
        let (body, name): (GetxattrIn, _) = (arguments.object()?, arguments.string()?);
        self.single_file.deny_change(request.head.nodeid)?;
        self.xattrs.check_get(name)?;
        let file = self.named(request.head.nodeid)?;
        let mut value = Bytes::from_elem(0, body.size.min(XATTR_MAX) as usize);
        let len = sys::get_xattr(&file.path, name, &mut value)?;
        if body.size == 0 {
            return Reply::count(len);
        }
        value.truncate(len);
        Ok(Reply::bytes(value))
    }

    pub(super) fn listxattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let body: GetxattrIn = request.arguments().object()?;
        self.single_file.deny_change(request.head.nodeid)?;
        let file = self.named(request.head.nodeid)?;
        let mut names = vec![0; body.size.min(XATTR_MAX) as usize];
        let len = sys::list_xattr(&file.path, &mut names)?;
        if body.size == 0 {
            // It may count hidden names too: the guest only makes room for so much.
            return Reply::count(len);
        }
        names.truncate(len);
        Ok(Reply::bytes(Bytes::from_vec(self.xattrs.visible(names))))
    }

    pub(super) fn removexattr(&self, request: &Request<'_>) -> io::Result<Reply> {
        let name = request.arguments().string()?;
        self.changeable(request.head.nodeid)?;
        self.xattrs.check_remove(name)?;
        sys::remove_xattr(&self.named(request.head.nodeid)?.path, name)?;
        Ok(Reply::empty())
    }
}
