//! Reading directories.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError};

use nix::unistd::{lseek64, Whence};
use vm_memory::ByteValued;

use super::super::config::FsCache;
use super::abi::{fopen, Dirent, EntryOut, OpenOut, ReadIn};
use super::handles::Handle;
use super::message::{Bytes, Reply, Request, OUT_HEADER};
use super::{errno, open_again, sys, Server};
use crate::virtio::Chain;

/// Most bytes of one reply.
const REPLY_MAX: u32 = 65536;
/// Bounds of the buffer for entries of the host. One entry takes up to 280 bytes.
const BUFFER: (usize, usize) = (1024, 32768);
/// Bytes of `struct linux_dirent64` before the name: inode number, position, length, type.
const ENTRY_HEADER: usize = 19;

/// An entry as the host's kernel returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry<'a> {
    ino: u64,
    /// Position of the next entry.
    next: u64,
    kind: u8,
    name: &'a CStr,
}

/// Splits the first entry off a buffer of `getdents64(2)`.
fn split_entry(buffer: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let word = |at: usize| Some(u64::from_ne_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
    let len = u16::from_ne_bytes(buffer.get(16..18)?.try_into().ok()?);
    let (this, rest) = buffer.split_at_checked(len.into())?;
    let name = CStr::from_bytes_until_nul(this.get(ENTRY_HEADER..)?).ok()?;
    Some((Entry { ino: word(0)?, next: word(8)?, kind: *this.get(18)?, name }, rest))
}

/// Entries for the guest.
struct Listing {
    bytes: Bytes,
    limit: usize,
}

impl Listing {
    /// Whether there is room for an entry with this name.
    fn fits(&self, name: &CStr, plus: bool) -> bool {
        let entry = if plus { size_of::<EntryOut>() } else { 0 };
        let len = (size_of::<Dirent>() + name.to_bytes().len()).next_multiple_of(8);
        self.bytes.len() + entry + len <= self.limit
    }

    fn add(&mut self, entry: Option<&EntryOut>, dirent: Dirent, name: &CStr) {
        if let Some(entry) = entry {
            self.bytes.extend_from_slice(entry.as_slice());
        }
        self.bytes.extend_from_slice(dirent.as_slice());
        self.bytes.extend_from_slice(name.to_bytes());
        let len = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(len, 0);
    }
}

impl Server {
    pub(super) fn opendir(&self, request: &Request<'_>) -> io::Result<Reply> {
        let id = request.head.nodeid;
        self.room()?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let file: File = open_again(self.nodes.proc(), &*self.nodes.descriptor(id)?, flags)?;
        let file = Arc::new(file);
        self.nodes.opened(id, &file);
        let open_flags = if self.cache == FsCache::Always { fopen::KEEP_CACHE | fopen::CACHE_DIR } else { 0 };
        Ok(Reply::object(&OpenOut { fh: self.handles.add(id, file), open_flags, backing_id: 0 }))
    }

    pub(super) fn readdir(&self, request: &Request<'_>, chain: &Chain, plus: bool) -> io::Result<Reply> {
        let body: ReadIn = request.arguments().object()?;
        let handle = self.handles.get(body.fh, request.head.nodeid)?;
        let room = chain.writable_len().saturating_sub(OUT_HEADER);
        let limit = body.size.min(room).min(REPLY_MAX) as usize;
        let mut listing = Listing { bytes: Bytes::new(), limit };
        if let Some(name) = self.single_file.name_in(handle.node) {
            self.list_single_file(&mut listing, handle.node, name, body.offset, plus)?;
        } else {
            self.list(&mut listing, &handle, body.offset, plus)?;
        }
        Ok(Reply::bytes(listing.bytes))
    }

    /// If the file is gone or is not a regular file any more, the directory is empty.
    fn list_single_file(
        &self,
        listing: &mut Listing,
        directory: u64,
        name: &CStr,
        offset: u64,
        plus: bool,
    ) -> io::Result<()> {
        let stat = match self.find(directory, name) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            found => found?,
        };
        if offset > 0 || !listing.fits(name, plus) {
            return Ok(());
        }
        let entry = plus.then(|| self.entry(directory, name, &stat)).transpose()?;
        listing.add(entry.as_ref(), dirent(stat.stx_ino, 1, libc::DT_REG, name), name);
        Ok(())
    }

    fn list(&self, listing: &mut Listing, handle: &Handle, offset: u64, plus: bool) -> io::Result<()> {
        // An entry of the guest's takes at least as much room as one of the host's.
        let len = if plus { listing.limit / 4 } else { listing.limit };
        let mut buffer = vec![0; len.clamp(BUFFER.0, BUFFER.1)];
        // One thread at a time reads from a position.
        let mut position = handle.position.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = offset;
        loop {
            if *position != next {
                let target = i64::try_from(next).map_err(|_| errno(libc::EINVAL))?;
                lseek64(&*handle.file, target, Whence::SeekSet)?;
            }
            // Unknown until the entries are used up.
            *position = u64::MAX;
            let count = sys::read_entries(&*handle.file, &mut buffer)?;
            if count == 0 {
                *position = next;
                return Ok(());
            }
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some((entry, after)) = split_entry(rest) {
                match self.list_entry(listing, handle, &entry, plus) {
                    Ok(true) => {}
                    // The guest has references to the entries so far and must get them.
                    Err(error) if listing.bytes.is_empty() => return Err(error),
                    Ok(false) | Err(_) => return Ok(()),
                }
                next = entry.next;
                rest = after;
            }
            *position = next;
            if !listing.bytes.is_empty() {
                return Ok(());
            }
            // Only entries that the guest does not see: an empty reply would be the end.
        }
    }

    /// False if there is no room for the entry.
    fn list_entry(&self, listing: &mut Listing, handle: &Handle, entry: &Entry<'_>, plus: bool) -> io::Result<bool> {
        let name = entry.name;
        if name == c"." || name == c".." {
            return Ok(true);
        }
        if !listing.fits(name, plus) {
            return if listing.bytes.is_empty() { Err(errno(libc::EINVAL)) } else { Ok(false) };
        }
        if plus {
            match sys::stat_entry(&*handle.file, name) {
                Ok(stat) => {
                    let found = self.entry(handle.node, name, &stat)?;
                    listing.add(Some(&found), dirent(found.attr.ino, entry.next, entry.kind, name), name);
                    return Ok(true);
                }
                // Removed meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(true),
                // The guest gets the name, and the error when it looks the name up.
                Err(_) => {}
            }
        }
        let ino = self.number(self.nodes.identity(handle.node)?.dev, entry.ino);
        let unknown = EntryOut::default();
        listing.add(plus.then_some(&unknown), dirent(ino, entry.next, entry.kind, name), name);
        Ok(true)
    }
}

fn dirent(ino: u64, off: u64, kind: u8, name: &CStr) -> Dirent {
    // The kernel's names are at most 255 bytes.
    let namelen = u32::try_from(name.to_bytes().len()).unwrap_or(u32::MAX);
    Dirent { ino, off, namelen, kind: kind.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_host_are_split() {
        let mut buffer = Vec::new();
        for (ino, name) in [(7u64, &b"a\0\0\0\0"[..]), (8, b"name\0")] {
            buffer.extend(ino.to_ne_bytes());
            buffer.extend((ino + 10).to_ne_bytes());
            buffer.extend(24u16.to_ne_bytes());
            buffer.push(libc::DT_REG);
            buffer.extend(name);
        }
        let (first, rest) = split_entry(&buffer).unwrap();
        assert_eq!(first, Entry { ino: 7, next: 17, kind: libc::DT_REG, name: c"a" });
        assert_eq!(split_entry(rest).unwrap().0.name, c"name");
        for len in 0..24 {
            assert!(split_entry(&buffer[..len]).is_none());
        }
    }
}
