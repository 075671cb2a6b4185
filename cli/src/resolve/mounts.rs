//! `-v`, `--tmpfs` and `--disk`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use hutch_runtime::VolumeName;

use super::error::ResolveError;
use super::values::utf8;

/// A directory or file of the host to mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name of a volume. Its directory is known after hutch has created it.
    pub name: Option<VolumeName>,
    /// Real path of the directory or file on the host; empty for a named volume.
    pub source: PathBuf,
    /// Whether the source is a single file.
    pub is_file: bool,
    /// Normalised absolute path in the guest.
    pub target: String,
    pub read_only: bool,
}

/// An in-memory file system in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Normalised absolute path in the guest.
    pub target: String,
    pub options: Vec<String>,
}

/// A disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Raw image or block device.
    pub path: PathBuf,
    pub read_only: bool,
}

impl Volume {
    /// `SRC:DST[:ro|rw]`. A source without a slash names a volume, as with other container engines.
    pub fn parse(text: &OsStr) -> Result<Self, ResolveError> {
        let syntax = || ResolveError::VolumeSyntax(text.to_owned());
        let (rest, read_only) = strip_mode(text.as_bytes());
        let colon = rest.iter().rposition(|b| *b == b':').ok_or_else(syntax)?;
        let (source, target) = (&rest[..colon], &rest[colon + 1..]);
        if source.is_empty() || target.is_empty() {
            return Err(syntax());
        }
        if !source.contains(&b'/') && !source.starts_with(b".") {
            let name = VolumeName::new(utf8("-v name", OsStr::from_bytes(source))?)?;
            let target = destination(utf8("-v destination", OsStr::from_bytes(target))?)?;
            return Ok(Self { name: Some(name), source: PathBuf::new(), is_file: false, target, read_only });
        }
        let path = PathBuf::from(OsStr::from_bytes(source));
        let fail = |source| ResolveError::VolumeSource { path: path.clone(), source };
        let real = path.canonicalize().map_err(fail)?;
        let kind = real.metadata().map_err(fail)?.file_type();
        if !kind.is_dir() && !kind.is_file() {
            return Err(ResolveError::VolumeSourceKind(path));
        }
        if kind.is_file() {
            // The agent receives the name, to bind the file.
            utf8("-v file name", real.file_name().unwrap_or_default())?;
        }
        let target = destination(utf8("-v destination", OsStr::from_bytes(target))?)?;
        Ok(Self { name: None, source: real, is_file: kind.is_file(), target, read_only })
    }
}

impl Tmpfs {
    /// `DST[:OPTION,OPTION…]`.
    pub fn parse(text: &OsStr) -> Result<Self, ResolveError> {
        let text = utf8("--tmpfs", text)?;
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        if target.is_empty() || text.ends_with(':') {
            return Err(ResolveError::TmpfsSyntax(text.into()));
        }
        let options = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        Ok(Self { target: destination(target)?, options })
    }
}

impl Disk {
    /// `PATH[:ro|rw]`.
    pub fn parse(text: &OsStr) -> Result<Self, ResolveError> {
        let (path, read_only) = strip_mode(text.as_bytes());
        let path = PathBuf::from(OsStr::from_bytes(path));
        let fail = |source| ResolveError::Disk { path: path.clone(), source };
        let kind = path.metadata().map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ResolveError::DiskKind(path));
        }
        OpenOptions::new().read(true).write(!read_only).open(&path).map_err(fail)?;
        Ok(Self { path, read_only })
    }
}

/// Checks that no destination is given twice.
pub fn check_destinations(volumes: &[Volume], tmpfs: &[Tmpfs]) -> Result<(), ResolveError> {
    let mut seen = BTreeSet::new();
    for target in volumes.iter().map(|v| &v.target).chain(tmpfs.iter().map(|t| &t.target)) {
        if !seen.insert(target) {
            return Err(ResolveError::DestinationTwice(target.clone()));
        }
    }
    Ok(())
}

/// Removes a trailing `:ro` or `:rw`; `true` if it was `:ro`.
fn strip_mode(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(b":rw").unwrap_or(text), false),
    }
}

/// The normal form of a mount destination.
fn destination(text: &str) -> Result<String, ResolveError> {
    let bad = || ResolveError::Destination(text.to_owned());
    if !text.starts_with('/') {
        return Err(bad());
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => parts.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if parts.is_empty() {
        return Err(bad());
    }
    let mut path = OsString::new();
    for part in parts {
        path.push("/");
        path.push(part);
    }
    path.into_string().map_err(|_| bad())
}
