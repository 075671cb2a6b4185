//! The names that hutch gives. Nothing else is ever removed.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{Store, StoreCause};
use crate::error::{Error, Result};
use crate::fault;
use crate::id::ContainerId;

/// Name of the marker of a root.
pub const ROOT_MARKER: &str = ".hutch-root.json";
/// Name of the marker of a pod directory.
pub const POD_MARKER: &str = ".hutch-pod.json";
/// Beginning of the names of reservations of ids.
pub(super) const RESERVATION: &str = ".hutch-id-";

/// A directory that hutch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A pod's, in the config root.
    PodConfig,
    /// A pod's, in the run root.
    PodRun,
    /// A container's, in the config root.
    ContainerConfig,
    /// A container's, in the run root.
    ContainerRun,
    /// Of the records of a container's execs.
    Execs,
}

/// An entry of a directory.
enum Entry {
    /// A record, or the unfinished write of one.
    File,
    /// A directory with known names.
    Directory(Place),
    /// The directory that the guest sees, with anything in it.
    Shared,
    /// Not made by hutch.
    Foreign,
}

impl Place {
    fn is_file(self, name: &str) -> bool {
        let names: &[&str] = match self {
            Place::PodConfig => &["config.json", POD_MARKER],
            Place::PodRun => &[
                "lock",
                "state.json",
                "network.json",
                "hypervisor.json",
                "agent.json",
                "failure.json",
                "vmm.log",
                "console.log",
                POD_MARKER,
            ],
            Place::ContainerConfig => &["config.json"],
            Place::ContainerRun => &["state.json", "process.json", "mounts.json", "devices.json", "exit.json"],
            Place::Execs => {
                return name.strip_suffix(".json").is_some_and(|token| {
                    let token = token.strip_suffix(".exit").unwrap_or(token);
                    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_hexdigit())
                })
            }
        };
        names.contains(&name)
    }

    fn classify(self, name: &str, kind: FileType) -> Entry {
        let socket = self == Place::PodRun && name.starts_with("vm-") && name.ends_with(".sock");
        if (socket && kind.is_socket()) || (kind.is_file() && (self.is_file(name) || self.is_temporary(name))) {
            return Entry::File;
        }
        if !kind.is_dir() {
            return Entry::Foreign;
        }
        match self {
            Place::PodRun if name == "shared" => Entry::Shared,
            Place::PodRun if ContainerId::new(name).is_ok() => Entry::Directory(Place::ContainerRun),
            Place::PodConfig if ContainerId::new(name).is_ok() => Entry::Directory(Place::ContainerConfig),
            Place::ContainerRun if name == "exec" => Entry::Directory(Place::Execs),
            _ => Entry::Foreign,
        }
    }

    /// Whether a name is that of an unfinished write of a file of this directory.
    pub(crate) fn is_temporary(self, name: &str) -> bool {
        temporary_of(name).is_some_and(|of| self.is_file(of))
    }
}

/// The name of the file of which `name` is an unfinished write: `NAME SUFFIX`. No id and no record has a blank.
fn temporary_of(name: &str) -> Option<&str> {
    let (of, suffix) = name.split_once(' ')?;
    (!suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.')).then_some(of)
}

/// Whether `name` is the marker `marker`, or the unfinished write of it.
pub(super) fn is_marker(name: &str, marker: &str) -> bool {
    name == marker || temporary_of(name) == Some(marker)
}

/// The name of an unfinished write of the file `name`.
pub(super) fn temporary_name(name: &str, unique: &str) -> String {
    format!("{name} {unique}")
}

fn entries(dir: &Path) -> Result<Vec<(PathBuf, String, FileType)>> {
    let fail = |e| Error::Store { path: dir.to_owned(), source: StoreCause::Read(e) };
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(fail)?;
        let kind = match entry.file_type() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(fail)?,
        };
        found.push((entry.path(), entry.file_name().to_string_lossy().into_owned(), kind));
    }
    Ok(found)
}

/// Something in the directory, or below, that hutch did not make. A missing directory holds nothing.
pub(crate) fn foreign_in(dir: &Path, place: Place) -> Result<Option<PathBuf>> {
    for (path, name, kind) in entries(dir)? {
        match place.classify(&name, kind) {
            Entry::File | Entry::Shared => {}
            Entry::Foreign => return Ok(Some(path)),
            Entry::Directory(inner) => {
                if let Some(found) = foreign_in(&path, inner)? {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}

impl Store {
    /// Removes a directory that hutch made, with its records. A missing one is fine. If it holds anything else, nothing
    /// is removed.
    ///
    /// # Errors
    /// [`Error::Store`] that names what is not hutch's, with the remedy.
    pub(crate) fn remove_known(&self, dir: &Path, place: Place) -> Result<()> {
        fault::point("store.remove_dir")?;
        if let Some(path) = foreign_in(dir, place)? {
            return Err(Error::Store { path, source: StoreCause::Foreign });
        }
        self.remove_entries(dir, place, false)?;
        remove_empty(dir)
    }

    /// Removes the records in a pod's directory in the run root, except the lock and the marker.
    pub(super) fn empty_run_dir(&self, dir: &Path) -> Result<()> {
        self.remove_entries(dir, Place::PodRun, true)
    }

    fn remove_entries(&self, dir: &Path, place: Place, keep: bool) -> Result<()> {
        for (path, name, kind) in entries(dir)? {
            match place.classify(&name, kind) {
                Entry::File if keep && (name == "lock" || name == POD_MARKER) => {}
                Entry::File => self.remove_file(&path)?,
                Entry::Shared => self.remove_dir(&path)?,
                Entry::Directory(inner) => {
                    self.remove_entries(&path, inner, false)?;
                    remove_empty(&path)?;
                }
                Entry::Foreign => return Err(Error::Store { path, source: StoreCause::Foreign }),
            }
        }
        Ok(())
    }
}

fn remove_empty(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => {
            let mounted = matches!(e.raw_os_error(), Some(libc::EXDEV | libc::EBUSY));
            let source = if mounted { StoreCause::Mounted } else { StoreCause::Remove(e) };
            Err(Error::Store { path: dir.to_owned(), source })
        }
        Ok(()) => Ok(()),
    }
}

/// Removes temporary files of unfinished writes in a directory.
pub(crate) fn remove_temporary(dir: &Path, place: Place) {
    for (path, name, kind) in entries(dir).unwrap_or_default() {
        if kind.is_file() && place.is_temporary(&name) {
            let _ = fs::remove_file(path);
        }
    }
}
