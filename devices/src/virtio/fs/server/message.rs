//! Requests as the server sees them: the header and the arguments, copied once from guest memory, then parsed by pure
//! functions; and replies.

use std::ffi::CStr;
use std::io;

use smallvec::SmallVec;
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::abi::{
    AttrOut, CreateOut, EntryOut, ExtHeader, GetxattrOut, InHeader, LseekOut, Opcode, OpenOut, OutHeader, StatfsOut,
    WriteIn, WriteOut, EXT_GROUPS,
};
use crate::virtio::{Chain, ChainReader};

/// Length of the header of a request.
#[expect(clippy::cast_possible_truncation, reason = "40 bytes")]
pub const IN_HEADER: u32 = size_of::<InHeader>() as u32;
/// Length of the header of a reply.
#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
pub const OUT_HEADER: u32 = size_of::<OutHeader>() as u32;
/// Largest request and largest reply: 1 MiB of payload, as INIT negotiates, and headers.
pub const MESSAGE_MAX: u32 = (1 << 20) + 4096;
/// Longest arguments of a request other than WRITE: the longest extended attribute (64 KiB), its name, and more than any
/// two names of files.
const BODY_MAX: u32 = 65536 + 16384;
/// Most supplementary groups in a request. Linux sends one: the directory's.
const GROUPS_MAX: usize = 32;

/// The arguments of a request, copied.
pub type Bytes = SmallVec<[u8; 256]>;

/// A request that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is shorter than its header.
    Unreadable,
    /// The guest gets this error as the reply. Without a number: there is no reply.
    Error(InHeader, i32),
}

/// A request whose lengths fit.
#[derive(Debug)]
pub struct Request<'a> {
    /// `struct fuse_in_header` of linux/fuse.h.
    pub head: InHeader,
    /// Its kind.
    pub opcode: Opcode,
    /// The arguments. Those of WRITE end before the data.
    pub body: Bytes,
    /// The data of WRITE.
    pub data: ChainReader<'a>,
}

impl<'a> Request<'a> {
    /// Copies a request from guest memory.
    pub fn read(chain: &'a Chain, mem: &'a GuestMemoryMmap<()>) -> Result<Self, Refusal> {
        let mut reader = chain.reader(mem);
        let head: InHeader = reader.read_obj().map_err(|_| Refusal::Unreadable)?;
        let opcode = check(&head, chain.readable_len(), chain.writable_len())?;
        let len = head.len.saturating_sub(IN_HEADER);
        let mut data = reader.limited(len);
        #[expect(clippy::cast_possible_truncation, reason = "40 bytes")]
        let len = if opcode == Opcode::Write { len.min(size_of::<WriteIn>() as u32) } else { len };
        if len > BODY_MAX {
            return Err(Refusal::Error(head, libc::E2BIG));
        }
        let mut body = Bytes::from_elem(0, len as usize);
        data.read_exact(&mut body).map_err(|_| Refusal::Error(head, libc::EIO))?;
        Ok(Self { head, opcode, body, data })
    }

    /// The arguments, to be taken one after the other.
    pub fn arguments(&self) -> Arguments<'_> {
        Arguments(&self.body)
    }

    /// The user's supplementary groups, as far as the guest sends them: an extension at the end of the request
    /// (`FUSE_CREATE_SUPP_GROUP`).
    pub fn groups(&self) -> io::Result<SmallVec<[u32; 4]>> {
        let len = usize::from(self.head.total_extlen) * 8;
        let start = self.body.len().checked_sub(len).ok_or_else(invalid)?;
        groups(self.body.get(start..).unwrap_or_default())
    }
}

/// Checks a header against the lengths of its buffers.
fn check(head: &InHeader, readable: u32, writable: u32) -> Result<Opcode, Refusal> {
    let refuse = |errno| Err(Refusal::Error(*head, errno));
    if head.len < IN_HEADER || head.len > readable || [head.len, readable, writable].iter().any(|n| *n > MESSAGE_MAX) {
        return refuse(libc::EIO);
    }
    let Some(opcode) = Opcode::served(head.opcode) else { return refuse(libc::ENOSYS) };
    if opcode.is_answered() {
        if writable < OUT_HEADER {
            return refuse(libc::EIO);
        }
        // Before the request is executed: an entry that does not arrive would never be forgotten.
        if ((writable - OUT_HEADER) as usize) < reply_size(opcode) {
            return refuse(libc::EINVAL);
        }
    }
    Ok(opcode)
}

/// Length of the reply to a request, as far as it does not depend on the request.
fn reply_size(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Lookup | Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => size_of::<EntryOut>(),
        Opcode::Getattr | Opcode::Setattr => size_of::<AttrOut>(),
        Opcode::Open | Opcode::Opendir => size_of::<OpenOut>(),
        Opcode::Create | Opcode::Tmpfile => size_of::<CreateOut>(),
        Opcode::Write | Opcode::CopyFileRange => size_of::<WriteOut>(),
        Opcode::Statfs => size_of::<StatfsOut>(),
        Opcode::Lseek => size_of::<LseekOut>(),
        _ => 0,
    }
}

/// Extensions of a request, each with a header and padded to 8 bytes.
fn groups(mut rest: &[u8]) -> io::Result<SmallVec<[u32; 4]>> {
    let mut all = SmallVec::new();
    while !rest.is_empty() {
        let header: ExtHeader = Arguments(rest).object()?;
        let size =
            usize::try_from(header.size).ok().filter(|size| (size_of::<ExtHeader>()..=rest.len()).contains(size));
        let (this, after) = rest.split_at(size.ok_or_else(invalid)?);
        if header.kind == EXT_GROUPS {
            let mut list = Arguments(this.get(size_of::<ExtHeader>()..).unwrap_or_default());
            let count: u32 = list.object()?;
            for _ in 0..count {
                if all.len() == GROUPS_MAX {
                    return Err(invalid());
                }
                all.push(list.object()?);
            }
        }
        rest = after;
    }
    Ok(all)
}

/// Arguments that are not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    /// The next argument, a struct.
    pub fn object<T: ByteValued>(&mut self) -> io::Result<T> {
        let (bytes, rest) = self.0.split_at_checked(size_of::<T>()).ok_or_else(invalid)?;
        let mut value = T::zeroed();
        value.as_mut_slice().copy_from_slice(bytes);
        self.0 = rest;
        Ok(value)
    }

    /// The next argument, a string with a NUL at its end.
    pub fn string(&mut self) -> io::Result<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| invalid())?;
        self.0 = self.0.get(text.to_bytes_with_nul().len()..).unwrap_or_default();
        Ok(text)
    }

    /// The next argument, the name of a directory entry. The guest's kernel resolves `.` and `..` itself.
    pub fn name(&mut self) -> io::Result<&'a CStr> {
        let name = self.string()?;
        let bytes = name.to_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(invalid());
        }
        Ok(name)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: u32) -> io::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or_else(invalid)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A successful reply.
#[derive(Debug, Default)]
pub struct Reply {
    /// The bytes after the header.
    bytes: Bytes,
    /// Number of bytes that lie in guest memory already, after the place of the header.
    filled: u32,
}

impl Reply {
    /// A reply without contents.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A reply with one struct.
    pub fn object(value: &impl ByteValued) -> Self {
        Self::bytes(Bytes::from_slice(value.as_slice()))
    }

    /// A reply with these bytes.
    pub fn bytes(bytes: Bytes) -> Self {
        Self { bytes, filled: 0 }
    }

    /// A reply of `count` bytes, which lie in guest memory already, after the place of the header.
    pub fn filled(count: u32) -> Self {
        Self { bytes: Bytes::new(), filled: count }
    }

    /// The length of an attribute or of a list of attributes.
    pub fn count(size: usize) -> io::Result<Self> {
        Ok(Self::object(&GetxattrOut { size: u32::try_from(size).map_err(|_| invalid())?, padding: 0 }))
    }
}

/// Writes the reply to a request, or an error if it does not fit. Returns the number of bytes.
pub fn write_reply(head: &InHeader, reply: io::Result<Reply>, chain: &Chain, mem: &GuestMemoryMmap<()>) -> u32 {
    let errno = match reply {
        Ok(reply) => match write(head, &reply, chain, mem) {
            Some(len) => return len,
            None => libc::EINVAL,
        },
        Err(error) => match error.raw_os_error() {
            // ENOSYS of the server says that it never has this request: the guest would not ask again, and from then on
            // report success to all callers of fsync(2). A call that this host lacks concerns one file only.
            Some(libc::ENOSYS) => libc::EOPNOTSUPP,
            errno => errno.unwrap_or(libc::EIO),
        },
    };
    write_error(head, errno, chain, mem)
}

fn write(head: &InHeader, reply: &Reply, chain: &Chain, mem: &GuestMemoryMmap<()>) -> Option<u32> {
    let contents = u32::try_from(reply.bytes.len()).ok()?.checked_add(reply.filled)?;
    let len = OUT_HEADER.checked_add(contents).filter(|len| *len <= chain.writable_len())?;
    let mut writer = chain.writer(mem);
    writer.write_obj(OutHeader { len, error: 0, unique: head.unique }).ok()?;
    writer.write_all(&reply.bytes).ok()?;
    Some(len)
}

/// Replies with an error if this kind of request has a reply and the guest has room for it. Returns the number of bytes.
pub fn write_error(head: &InHeader, errno: i32, chain: &Chain, mem: &GuestMemoryMmap<()>) -> u32 {
    let header = OutHeader { len: OUT_HEADER, error: -errno, unique: head.unique };
    let answered = Opcode::served(head.opcode).is_none_or(Opcode::is_answered);
    if answered && chain.writer(mem).write_obj(header).is_ok() {
        OUT_HEADER
    } else {
        0
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
