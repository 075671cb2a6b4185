//! The file operations that records need, as a trait, so that tests can make them fail.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

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
        let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "a record needs a directory and a name");
        let dir = path.parent().ok_or_else(no_name)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_name)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // The blank makes the name different from every id and record.
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!("{name} {}.{unique}", std::process::id()));
        let written = write_new(&temporary, bytes)
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)?;
    file.sync_all()
}
