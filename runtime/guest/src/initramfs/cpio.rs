//! The archive format of an initramfs: cpio "newc" (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same contents give the same bytes: sorted by path, numbered inodes, no times, owner root.

use std::collections::BTreeMap;

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;

/// An archive that cannot be written or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CpioError {
    #[error("{path}: not a relative path of plain components")]
    BadPath { path: String },
    #[error("{path}: the directory it lies in is not in the archive")]
    NoParent { path: String },
    #[error("{path}: larger than the 4 GiB the format allows")]
    TooLarge { path: String },
    #[error("not a cpio archive (newc) at offset {offset}")]
    BadHeader { offset: usize },
    #[error("cut short at offset {offset}")]
    Truncated { offset: usize },
    #[error("{path}: an entry of mode {mode:o}, which hutch's initramfs does not have")]
    UnexpectedMode { path: String, mode: u32 },
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with these permissions.
    Directory(u32),
    /// A file with these permissions.
    File(u32, Vec<u8>),
    /// A character device: permissions, major, minor.
    CharDevice(u32, u32, u32),
}

/// An archive in memory, by path ("modules/order", no leading slash).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// Inserts an entry; replaces one with the same path.
    ///
    /// # Errors
    /// The path is empty, absolute, or has `.`, `..`, empty components or a NUL; or it lies in a directory that
    /// was not inserted before.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        if path == TRAILER || path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(CpioError::BadPath { path: path.to_owned() });
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !matches!(self.nodes.get(parent), Some(Node::Directory(_)))
        {
            return Err(CpioError::NoParent { path: path.to_owned() });
        }
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// The entry at `path`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// All entries, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// A file is too large for the format.
    pub fn write(&self) -> Result<Vec<u8>, CpioError> {
        let mut out = Vec::new();
        for (index, (path, node)) in self.iter().enumerate() {
            let (mode, device, data): (u32, (u32, u32), &[u8]) = match node {
                Node::Directory(mode) => (S_IFDIR | mode, (0, 0), &[]),
                Node::CharDevice(mode, major, minor) => (S_IFCHR | mode, (*major, *minor), &[]),
                Node::File(mode, data) => (S_IFREG | mode, (0, 0), data),
            };
            let inode = u32::try_from(index + 1).map_err(|_| CpioError::TooLarge { path: path.to_owned() })?;
            write_entry(&mut out, inode, path, mode, device, data)?;
        }
        write_entry(&mut out, 0, TRAILER, 0, (0, 0), &[])?;
        Ok(out)
    }

    /// Reads an archive as [`Archive::write`] makes it: directories, files and character devices.
    ///
    /// # Errors
    /// [`CpioError`] for anything damaged or foreign.
    pub fn read(bytes: &[u8]) -> Result<Archive, CpioError> {
        let mut archive = Archive::default();
        let mut offset = 0;
        loop {
            let entry = read_entry(bytes, offset)?;
            if entry.path == TRAILER {
                return Ok(archive);
            }
            let mode = entry.mode & !S_IFMT;
            let node = match entry.mode & S_IFMT {
                S_IFDIR => Node::Directory(mode),
                S_IFCHR => Node::CharDevice(mode, entry.device.0, entry.device.1),
                S_IFREG => Node::File(mode, entry.data.to_vec()),
                _ => return Err(CpioError::UnexpectedMode { path: entry.path.to_owned(), mode: entry.mode }),
            };
            archive.insert(entry.path, node)?;
            offset = entry.next;
        }
    }
}

fn write_entry(
    out: &mut Vec<u8>,
    inode: u32,
    path: &str,
    mode: u32,
    device: (u32, u32),
    data: &[u8],
) -> Result<(), CpioError> {
    let too_large = || CpioError::TooLarge { path: path.to_owned() };
    let size = u32::try_from(data.len()).map_err(|_| too_large())?;
    let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
    let links = if mode & S_IFMT == S_IFDIR { 2 } else { 1 };
    out.extend_from_slice(MAGIC);
    // inode, mode, uid, gid, links, mtime, size, device of the file (2), device it is (2), name size, check
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

struct RawEntry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
    next: usize,
}

fn read_entry(bytes: &[u8], offset: usize) -> Result<RawEntry<'_>, CpioError> {
    let truncated = CpioError::Truncated { offset };
    let bad = || CpioError::BadHeader { offset };
    let entry = bytes.get(offset..).unwrap_or_default();
    let header = entry.get(..HEADER).ok_or(truncated)?;
    if !header.starts_with(MAGIC) {
        return Err(bad());
    }
    let mut fields = [0u32; 13];
    for (field, digits) in fields.iter_mut().zip(header[MAGIC.len()..].chunks(8)) {
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        *field = u32::from_str_radix(digits, 16).map_err(|_| bad())?;
    }
    let [_, mode, _, _, _, _, size, _, _, major, minor, name_size, _] = fields;
    let (size, name_size) = (size as usize, name_size as usize);
    let truncated = || CpioError::Truncated { offset };
    let name = entry.get(HEADER..HEADER + name_size).ok_or_else(truncated)?;
    let path = name.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(bad)?;
    let start = (HEADER + name_size).next_multiple_of(4);
    let data = entry.get(start..start + size).ok_or_else(truncated)?;
    let next = offset + (start + size).next_multiple_of(4);
    Ok(RawEntry { path, mode, device: (major, minor), data, next })
}
