//! The file system on a disk image, found by its magic number. A guest may have written the image, so nothing else in
//! it is read.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Offset, bytes and file system. `mkfs` of one file system wipes the magic numbers of the others.
const MAGIC: [(usize, &[u8], &str); 4] = [
    // s_magic of the superblock, which begins at 1024. Also ext2 and ext3, which the same driver mounts.
    (1024 + 56, &[0x53, 0xef], "ext4"),
    (0, b"XFSB", "xfs"),
    (0, b"hsqs", "squashfs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
];
/// Bytes to read so that all magic numbers are included.
const HEAD: usize = 2048;

/// The file system on the image or block device at `path`; `None` if none is recognised.
///
/// # Errors
/// If the image cannot be read.
pub fn file_system_of(path: &Path) -> io::Result<Option<&'static str>> {
    // A pipe at this path must not block us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut head = [0; HEAD];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let found = MAGIC.iter().find(|(at, bytes, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)));
    Ok(found.map(|(_, _, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(at: usize, bytes: &[u8], len: usize) -> Option<&'static str> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut image = vec![0; len];
        image[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(file.path(), image).unwrap();
        file_system_of(file.path()).unwrap()
    }

    #[test]
    fn file_systems_are_told_by_their_magic() {
        for (at, bytes, name) in MAGIC {
            assert_eq!(of(at, bytes, 4096), Some(name));
            assert_eq!(of(at + 1, bytes, 4096), None, "{name} in the wrong place");
        }
        assert_eq!(of(0, b"hsqs", 4), Some("squashfs"), "shorter than a head");
        assert_eq!(of(0, b"", 0), None);
        assert!(file_system_of(Path::new("/nowhere/at/all")).is_err());
    }
}
