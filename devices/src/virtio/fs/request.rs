//! Checks the header of a FUSE request before the library gets it, and answers requests that cannot be served. Pure
//! functions except for the reply.

use std::mem::size_of;

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use vm_memory::GuestMemoryMmap;

use crate::virtio::Chain;

/// Length of the header of a request.
#[expect(clippy::cast_possible_truncation, reason = "40 bytes")]
pub const IN_HEADER: u32 = size_of::<InHeader>() as u32;
/// Length of the header of a reply.
#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
pub const OUT_HEADER: u32 = size_of::<OutHeader>() as u32;
/// Largest request and largest reply: 1 MiB of payload, as INIT negotiates, and headers.
pub const MESSAGE_MAX: u32 = (1 << 20) + 4096;

/// Requests that are served. The others are unknown or not offered by INIT: locks (which the guest's kernel handles
/// itself), ioctl, poll, notifications, DAX mappings.
const SERVED: &[Opcode] = &[
    Opcode::Lookup,
    Opcode::Forget,
    Opcode::Getattr,
    Opcode::Setattr,
    Opcode::Readlink,
    Opcode::Symlink,
    Opcode::Mknod,
    Opcode::Mkdir,
    Opcode::Unlink,
    Opcode::Rmdir,
    Opcode::Rename,
    Opcode::Link,
    Opcode::Open,
    Opcode::Read,
    Opcode::Write,
    Opcode::Statfs,
    Opcode::Release,
    Opcode::Fsync,
    Opcode::Setxattr,
    Opcode::Getxattr,
    Opcode::Listxattr,
    Opcode::Removexattr,
    Opcode::Flush,
    Opcode::Init,
    Opcode::Opendir,
    Opcode::Readdir,
    Opcode::Releasedir,
    Opcode::Fsyncdir,
    Opcode::Access,
    Opcode::Create,
    Opcode::Interrupt,
    Opcode::Destroy,
    Opcode::BatchForget,
    Opcode::Fallocate,
    Opcode::Readdirplus,
    Opcode::Rename2,
    Opcode::Lseek,
];

/// The identity of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    opcode: u32,
    unique: u64,
}

/// A request that does not reach the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is shorter than its header.
    Unreadable,
    /// The guest gets this error as the reply.
    Error(Head, i32),
}

impl Head {
    /// Checks a request before the library serves it.
    pub fn check(chain: &Chain, mem: &GuestMemoryMmap<()>) -> Result<Self, Refusal> {
        let header: InHeader = chain.reader(mem).read_obj().map_err(|_| Refusal::Unreadable)?;
        let head = Self { opcode: header.opcode, unique: header.unique };
        let sizes = [header.len, chain.readable_len(), chain.writable_len()];
        if header.len < IN_HEADER || header.len > chain.readable_len() || sizes.iter().any(|size| *size > MESSAGE_MAX) {
            return Err(Refusal::Error(head, libc::EIO));
        }
        if !SERVED.iter().any(|served| head.is(*served)) {
            return Err(Refusal::Error(head, libc::ENOSYS));
        }
        if head.is_answered() && chain.writable_len() < OUT_HEADER {
            return Err(Refusal::Error(head, libc::EIO));
        }
        Ok(head)
    }

    /// Whether the request has this opcode.
    pub fn is(self, opcode: Opcode) -> bool {
        self.opcode == opcode as u32
    }

    fn is_answered(self) -> bool {
        ![Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt].into_iter().any(|silent| self.is(silent))
    }

    /// Replies with an error if this kind of request has a reply and the guest has room for it. Returns the number of
    /// bytes written.
    pub fn refuse(self, chain: &Chain, mem: &GuestMemoryMmap<()>, errno: i32) -> u32 {
        let header = OutHeader { len: OUT_HEADER, error: -errno, unique: self.unique };
        if self.is_answered() && chain.writer(mem).write_obj(header).is_ok() {
            OUT_HEADER
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Buffer, DriverQueue, Line, TestRam};
    use vm_memory::ByteValued;

    fn check(header: InHeader, extra: u32, writable: u32) -> Result<Head, Refusal> {
        let ram = TestRam::new();
        let mut driver = DriverQueue::new(&ram, &Line::default().into(), 16, 0);
        let body = vec![0; extra as usize];
        driver.add(&[Buffer::Readable(header.as_slice()), Buffer::Readable(&body), Buffer::Writable(writable)]);
        let chain = driver.device_side().pop(&ram.share()).unwrap().unwrap();
        Head::check(&chain, &ram.share())
    }

    fn header(opcode: Opcode, len: u32) -> InHeader {
        InHeader { opcode: opcode as u32, len, unique: 7, ..InHeader::default() }
    }

    fn errno(result: Result<Head, Refusal>) -> i32 {
        match result {
            Err(Refusal::Error(_, errno)) => errno,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths_that_do_not_fit_their_buffers_are_refused() {
        assert!(check(header(Opcode::Lookup, 45), 5, 16).is_ok());
        assert!(check(header(Opcode::Lookup, 45), 50, 200).is_ok());
        for len in [0, 39, 46, u32::MAX] {
            assert_eq!(errno(check(header(Opcode::Lookup, len), 5, 16)), libc::EIO);
        }
        assert_eq!(errno(check(header(Opcode::Lookup, 45), 5, 15)), libc::EIO);
        assert_eq!(errno(check(header(Opcode::Write, 40), MESSAGE_MAX, 16)), libc::EIO);
        assert_eq!(errno(check(header(Opcode::Read, 40), 0, MESSAGE_MAX + 1)), libc::EIO);
        assert!(check(header(Opcode::Forget, 48), 8, 0).is_ok());
    }

    #[test]
    fn requests_that_are_not_offered_are_unknown() {
        for opcode in [Opcode::Setlkw, Opcode::Ioctl, Opcode::Poll, Opcode::SetupMapping, Opcode::NotifyReply] {
            assert_eq!(errno(check(header(opcode, 40), 0, 16)), libc::ENOSYS);
        }
        for opcode in [0, 7, 47, 4096, u32::MAX] {
            assert_eq!(errno(check(InHeader { opcode, len: 40, ..InHeader::default() }, 0, 16)), libc::ENOSYS);
        }
    }
}
