//! The file operations that records need, as a trait, so that tests can make them fail.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::names::temporary_name;
use crate::id::random_hex;

/// Mode of directories.
const DIR_MODE: u32 = 0o750;
/// Mode of records. They contain environment variables.
const FILE_MODE: u32 = 0o600;
/// Limit for reading. No record is that large.
const MAX_RECORD: u64 = 64 << 20;

/// File operations on records.
pub trait Disk: Send + Sync {
    /// Reads the whole file; `None` if there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the file atomically. `before_rename` is called when the new content is complete and flushed under its
    /// temporary name.
    ///
    /// # Errors
    /// If it fails, or `before_rename` does, the old file is untouched.
    fn write(&self, path: &Path, bytes: &[u8], before_rename: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

    /// Removes a file. A missing one is fine.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory and its parents. An existing one is fine.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and its content. A missing one is fine. Does not cross mounts, does not follow links.
    ///
    /// # Errors
    /// `EXDEV` or `EBUSY` if something is mounted below.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
}

/// The host's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8], before_rename: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let (dir, name) = parts(path)?;
        let (mut file, temporary) = create_unique(dir, name)?;
        let written = fill(&mut file, bytes)
            .and_then(|()| before_rename())
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| File::open(dir)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(path) {
            // The umask of the process must not decide who can read the directory.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIR_MODE)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => match path.parent() {
                Some(parent) if parent != path => {
                    self.make_dir(parent)?;
                    self.make_dir(path)
                }
                _ => Err(e),
            },
            Err(e) => Err(e),
        }
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        super::remove_tree(path)
    }
}

/// Makes an empty file for a record, or empties the one that is there.
pub(super) fn create_record(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Writes a file whole unless there is one that is not empty.
pub(super) fn write_if_absent(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (dir, name) = parts(path)?;
    let (mut file, temporary) = create_unique(dir, name)?;
    let written = fill(&mut file, bytes).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !is_empty(path) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs::rename(&temporary, path),
        other => other,
    });
    let _ = fs::remove_file(&temporary);
    written
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() == 0)
}

fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "a record needs a directory and a name");
    path.parent().zip(name).ok_or_else(no_name)
}

/// Makes a file with a name that no other process uses, not even one in another PID namespace.
fn create_unique(dir: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    loop {
        let unique = random_hex(8).map_err(io::Error::other)?;
        let path = dir.join(temporary_name(name, &unique));
        match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return Ok((other?, path)),
        }
    }
}

fn fill(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)?;
    file.sync_all()
}
