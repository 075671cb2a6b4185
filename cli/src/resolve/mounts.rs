//! `-v`, `--tmpfs` and `--disk`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use hutch_runtime::VolumeName;
use hutch_vmm::config::{ShareCache, SharePolicy};

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
    /// The guest's caching, and the power of its files on the host.
    pub policy: SharePolicy,
    /// The options that set the policy, as they were given.
    pub policy_options: Vec<String>,
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
    /// `SRC:DST[:OPTION,…]`. A source without a slash names a volume, as with other container engines.
    pub fn parse(text: &OsStr) -> Result<Self, ResolveError> {
        let syntax = || ResolveError::VolumeSyntax(text.to_owned());
        let (rest, options) = split_options(text.as_bytes());
        let colon = rest.iter().rposition(|b| *b == b':').ok_or_else(syntax)?;
        let (source, target) = (&rest[..colon], &rest[colon + 1..]);
        if source.is_empty() || target.is_empty() {
            return Err(syntax());
        }
        let target = destination(utf8("-v destination", OsStr::from_bytes(target))?)?;
        let is_named = !source.contains(&b'/') && !source.starts_with(b".");
        let mut this = Self {
            name: None,
            source: PathBuf::new(),
            is_file: false,
            target,
            read_only: false,
            // Others of the host may use a directory of the host; a volume is hutch's.
            policy: SharePolicy { strip_privileges: !is_named, ..SharePolicy::default() },
            policy_options: Vec::new(),
        };
        for option in utf8("-v options", OsStr::from_bytes(options))?.split(',').filter(|option| !option.is_empty()) {
            this.set(option).ok_or_else(|| ResolveError::VolumeOption(option.to_owned()))?;
        }
        if is_named {
            this.name = Some(VolumeName::new(utf8("-v name", OsStr::from_bytes(source))?)?);
            return Ok(this);
        }
        let path = PathBuf::from(OsStr::from_bytes(source));
        let fail = |source| ResolveError::VolumeSource { path: path.clone(), source };
        this.source = path.canonicalize().map_err(fail)?;
        let kind = this.source.metadata().map_err(fail)?.file_type();
        if !kind.is_dir() && !kind.is_file() {
            return Err(ResolveError::VolumeSourceKind(path));
        }
        if kind.is_file() {
            // The agent receives the name, to bind the file.
            utf8("-v file name", this.source.file_name().unwrap_or_default())?;
        }
        this.is_file = kind.is_file();
        Ok(this)
    }

    /// Sets an option. `None` if there is no such option.
    fn set(&mut self, option: &str) -> Option<()> {
        match option {
            "ro" | "rw" => {
                self.read_only = option == "ro";
                return Some(());
            }
            "cache=none" => self.policy.cache = ShareCache::None,
            "cache=auto" => self.policy.cache = ShareCache::Auto,
            "cache=always" => self.policy.cache = ShareCache::Always,
            "suid=keep" => self.policy.strip_privileges = false,
            "suid=strip" => self.policy.strip_privileges = true,
            "trusted=on" => self.policy.trusted_xattrs = true,
            "trusted=off" => self.policy.trusted_xattrs = false,
            _ => return None,
        }
        self.policy_options.push(option.to_owned());
        Some(())
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

/// Splits the options off a volume. A destination begins with a slash, options do not.
fn split_options(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().rposition(|b| *b == b':') {
        // Without another colon it is a destination that is not absolute.
        Some(colon) if text[..colon].contains(&b':') && text.get(colon + 1).is_some_and(|b| *b != b'/') => {
            (&text[..colon], &text[colon + 1..])
        }
        _ => (text, &[]),
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
