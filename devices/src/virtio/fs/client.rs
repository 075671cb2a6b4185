//! The guest's side of a share, for tests: sends one request at a time, in the form that Linux uses.

use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, CreateIn, Dirent, EntryOut, FsOptions, GetattrIn, InHeader, InitIn, InitIn2, InitOut, Opcode,
    OpenIn, OpenOut, OutHeader, ReadIn, WriteIn, WriteOut, ROOT_ID,
};
use vm_memory::ByteValued;

use super::device::Fs;
use super::{FsCache, FsDeviceConfig};
use crate::testing::{activate, Activated, Buffer, DriverQueue};

/// The reply to a request without its header, or the error number.
pub type Reply = Result<Vec<u8>, i32>;

/// A mounted share.
pub struct Client {
    pub device: Fs,
    pub session: Activated,
    pub uid: u32,
    pub gid: u32,
    unique: u64,
}

/// One entry of a directory.
#[derive(Debug)]
pub struct Listed {
    pub name: String,
    pub ino: u64,
    pub entry: Option<EntryOut>,
}

pub fn config(path: &Path) -> FsDeviceConfig {
    FsDeviceConfig { id: "fs0".into(), tag: "share".into(), path: path.into(), ..FsDeviceConfig::default() }
}

/// Reads a value from the start of a reply.
pub fn value<T: ByteValued>(bytes: &[u8]) -> T {
    let mut value = T::zeroed();
    value.as_mut_slice().copy_from_slice(&bytes[..size_of::<T>()]);
    value
}

/// A NUL-terminated name for a request.
pub fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

impl Client {
    pub fn new(device: Fs, features: u64) -> Self {
        let mut device = device;
        let session = activate(&mut device, features, 64);
        Self { device, session, uid: 0, gid: 0, unique: 0 }
    }

    /// Mounts a directory: sends INIT.
    pub fn mount(config: FsDeviceConfig) -> Self {
        let mut client = Self::new(Fs::new(config).unwrap(), 0);
        client.init(u64::MAX);
        client
    }

    pub fn read_only(path: &Path) -> Self {
        Self::mount(FsDeviceConfig { read_only: true, ..config(path) })
    }

    pub fn read_write(path: &Path) -> Self {
        Self::mount(config(path))
    }

    pub fn always(path: &Path) -> Self {
        Self::mount(FsDeviceConfig { cache: FsCache::Always, ..config(path) })
    }

    pub fn requests(&mut self) -> &mut DriverQueue {
        &mut self.session.queues[1]
    }

    /// Makes the header of a request with a body of `len` bytes.
    pub fn header(&mut self, opcode: Opcode, nodeid: u64, len: usize) -> InHeader {
        self.unique += 2;
        InHeader {
            len: (size_of::<InHeader>() + len) as u32,
            opcode: opcode as u32,
            unique: self.unique,
            nodeid,
            uid: self.uid,
            gid: self.gid,
            pid: 1,
            padding: 0,
        }
    }

    /// Sends a request with room for `room` bytes of reply.
    pub fn call(&mut self, opcode: Opcode, nodeid: u64, body: &[&[u8]], room: usize) -> Reply {
        let body = body.concat();
        let header = self.header(opcode, nodeid, body.len());
        let message = [header.as_slice(), &body].concat();
        let room = (size_of::<OutHeader>() + room) as u32;
        let (used, reply) = self.requests().transact(&[Buffer::Readable(&message), Buffer::Writable(room)]);
        let out: OutHeader = value(&reply);
        assert_eq!((out.unique, out.len), (header.unique, used.len), "{opcode:?}");
        if out.error == 0 {
            Ok(reply[size_of::<OutHeader>()..out.len as usize].to_vec())
        } else {
            assert_eq!(used.len as usize, size_of::<OutHeader>());
            Err(-out.error)
        }
    }

    /// Sends INIT as Linux 6.12 does, with these flags.
    pub fn init(&mut self, flags: u64) -> InitOut {
        let body = InitIn { major: 7, minor: 41, max_readahead: 131_072, flags: flags as u32 };
        let more = InitIn2 { flags2: (flags >> 32) as u32, ..InitIn2::default() };
        value(&self.call(Opcode::Init, 0, &[body.as_slice(), more.as_slice()], size_of::<InitOut>()).unwrap())
    }

    pub fn lookup(&mut self, parent: u64, text: &str) -> Result<EntryOut, i32> {
        self.call(Opcode::Lookup, parent, &[&name(text)], size_of::<EntryOut>()).map(|reply| value(&reply))
    }

    /// Looks up a path below the root and returns its node.
    pub fn walk(&mut self, path: &str) -> u64 {
        path.split('/').fold(ROOT_ID, |node, part| self.lookup(node, part).unwrap().nodeid)
    }

    pub fn getattr(&mut self, node: u64) -> Result<Attr, i32> {
        let body = GetattrIn::default();
        let reply = self.call(Opcode::Getattr, node, &[body.as_slice()], size_of::<AttrOut>())?;
        Ok(value::<AttrOut>(&reply).attr)
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.open_as(Opcode::Open, node, flags)
    }

    pub fn opendir(&mut self, node: u64) -> Result<u64, i32> {
        self.open_as(Opcode::Opendir, node, 0)
    }

    fn open_as(&mut self, opcode: Opcode, node: u64, flags: i32) -> Result<u64, i32> {
        let body = OpenIn { flags: flags as u32, fuse_flags: 0 };
        self.call(opcode, node, &[body.as_slice()], size_of::<OpenOut>()).map(|reply| value::<OpenOut>(&reply).fh)
    }

    pub fn create(&mut self, parent: u64, text: &str, flags: i32, mode: u32) -> Result<(EntryOut, u64), i32> {
        let body = CreateIn { flags: flags as u32, mode, umask: 0, fuse_flags: 0 };
        let room = size_of::<EntryOut>() + size_of::<OpenOut>();
        let reply = self.call(Opcode::Create, parent, &[body.as_slice(), &name(text)], room)?;
        Ok((value(&reply), value::<OpenOut>(&reply[size_of::<EntryOut>()..]).fh))
    }

    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Reply {
        let body = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.call(Opcode::Read, node, &[body.as_slice()], size as usize)
    }

    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let body = WriteIn { fh, offset, size: data.len() as u32, flags: libc::O_RDWR as u32, ..WriteIn::default() };
        let reply = self.call(Opcode::Write, node, &[body.as_slice(), data], size_of::<WriteOut>())?;
        Ok(value::<WriteOut>(&reply).size)
    }

    /// Reads a file's contents.
    pub fn cat(&mut self, path: &str) -> Vec<u8> {
        let node = self.walk(path);
        let fh = self.open(node, libc::O_RDONLY).unwrap();
        self.read(node, fh, 0, 65536).unwrap()
    }

    /// Reads a directory with requests of `size` bytes.
    pub fn list(&mut self, node: u64, plus: bool, size: u32) -> Vec<Listed> {
        let fh = self.opendir(node).unwrap();
        let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let body = ReadIn { fh, offset, size, ..ReadIn::default() };
            let reply = self.call(opcode, node, &[body.as_slice()], size as usize).unwrap();
            if reply.is_empty() {
                return all;
            }
            let mut rest = &reply[..];
            while !rest.is_empty() {
                let entry = plus.then(|| {
                    let entry = value(rest);
                    rest = &rest[size_of::<EntryOut>()..];
                    entry
                });
                let dirent: Dirent = value(rest);
                let end = size_of::<Dirent>() + dirent.namelen as usize;
                let name = String::from_utf8_lossy(&rest[size_of::<Dirent>()..end]).into_owned();
                rest = &rest[end.next_multiple_of(8)..];
                offset = dirent.off;
                all.push(Listed { name, ino: dirent.ino, entry });
            }
        }
    }
}

/// The flags that Linux 6.1 offers, without those that need a special device.
pub fn linux_6_1() -> u64 {
    (FsOptions::all() - FsOptions::FD_PASSTHROUGH - FsOptions::HAS_RESEND).bits()
}
