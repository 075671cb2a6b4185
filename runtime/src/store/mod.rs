//! Records on disk and the lock that guards them (pod contract, §4 and §5).
//!
//! `resources/docs/reference/files.md` has the table of records: file, content, when it is written, type.
//!
//! Every record file is a JSON object with `version`, `record` (its kind) and `data`. A version that this program does
//! not know is an error (P-051), and so is a record of another kind. Records that name something outside of the store
//! (a process, a mount, a namespace) are written before that thing can act, so that a crash leaves nothing unreachable
//! (P-206).
//!
//! A root holds the marker `.hutch-root.json`, and each directory `P` in it the marker `.hutch-pod.json`; both name the
//! other root. hutch changes no directory without a marker, and removes no file whose name is not in that table.
//!
//! | file | contents |
//! |---|---|
//! | `layout`, `names` | the paths of the records; file names |
//! | `record`, `records` | the form of a record file; the records |
//! | `disk`, `tree` | durable writes; removing a directory with all below it |
//! | `lock` | the lock of a pod |
//! | `owner`, `known` | markers: what is hutch's; the files that it may remove |
//! | `reboot` | what a restart of the host means for the records |
//! | `cause` | why an operation failed |
//!
//! A pod **exists** if its pod config record does. Everything else without one is left over from a creation or deletion
//! that was cut short; the next exclusive call on that id removes it.

mod cause;
mod disk;
mod known;
mod layout;
mod lock;
mod names;
mod owner;
mod reboot;
mod record;
mod records;
#[cfg(test)]
mod tests;
mod tree;

pub use cause::StoreCause;
pub use disk::{Disk, HostDisk};
pub(crate) use known::remove_temporary;
pub use layout::{ContainerDirs, PodDirs, DEFAULT_CONFIG_ROOT, DEFAULT_RUN_ROOT};
pub use lock::{LockMode, PodLock};
pub(crate) use names::Place;
pub use names::{POD_MARKER, ROOT_MARKER};
pub use record::{Record, RecordPath, RECORD_VERSION};
pub use records::{
    AgentRecord, BindRecord, ContainerState, DevicesRecord, ExitRecord, FailureRecord, MountsRecord, NetworkRecord,
    PodState, ProcessRecord, VmRecord,
};
pub use tree::remove_tree;

use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fault;
use crate::id::PodId;
use crate::logger;

/// The two roots and what lies below them.
#[derive(Clone)]
pub struct Store {
    config_root: Arc<Path>,
    run_root: Arc<Path>,
    disk: Arc<dyn Disk>,
    /// Both roots have been found to be hutch's, and to belong together.
    paired: Arc<AtomicBool>,
}

/// The directories in `dir` whose names `parse` accepts, sorted; none if `dir` does not exist.
///
/// # Errors
/// [`Error::Store`].
pub(crate) fn directories_in<T: Ord>(dir: &Path, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let fail = |e| Error::Store { path: dir.to_owned(), source: StoreCause::Read(e) };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entry.file_name().to_str().and_then(&parse));
        }
    }
    found.sort();
    Ok(found)
}

impl Store {
    /// A store over two directories, which need not exist yet.
    pub fn new(config_root: impl Into<PathBuf>, run_root: impl Into<PathBuf>) -> Self {
        Self::with_disk(config_root, run_root, Arc::new(HostDisk))
    }

    /// The directory of configurations.
    pub fn config_root(&self) -> &Path {
        &self.config_root
    }

    /// The directory of everything that does not survive a restart of the host.
    pub fn run_root(&self) -> &Path {
        &self.run_root
    }
}

#[doc(hidden)]
impl Store {
    /// A store that writes through `disk`, for tests of failing disks.
    pub fn with_disk(config_root: impl Into<PathBuf>, run_root: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Self {
        let (config_root, run_root) = (config_root.into().into(), run_root.into().into());
        Self { config_root, run_root, disk, paired: Arc::default() }
    }

    /// Paths of the records of a pod.
    pub fn pod(&self, id: &PodId) -> PodDirs {
        PodDirs::new(&self.config_root, &self.run_root, id)
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn get<T: Record>(&self, at: &RecordPath<T>) -> Result<Option<T>> {
        let path = at.path();
        let fail = |source| Error::Store { path: path.to_owned(), source };
        match self.disk.read(path).map_err(|e| fail(StoreCause::Read(e)))? {
            None => Ok(None),
            Some(bytes) if bytes.is_empty() && T::MAY_BE_EMPTY => Ok(None),
            Some(bytes) => record::decode(&bytes).map(Some).map_err(fail),
        }
    }

    /// Reads a record that must exist.
    ///
    /// # Errors
    /// [`Error::Store`], with [`StoreCause::Missing`] if there is none.
    pub fn need<T: Record>(&self, at: &RecordPath<T>) -> Result<T> {
        self.get(at)?.ok_or_else(|| Error::Store { path: at.path().to_owned(), source: StoreCause::Missing })
    }

    /// Reads a record for a clean-up, which ignores a record that cannot be read.
    pub(crate) fn get_or_warn<T: Record>(&self, at: &RecordPath<T>) -> Option<T> {
        self.get(at).unwrap_or_else(|e| {
            logger::warn!("{}; ignored while cleaning", e.chain());
            None
        })
    }

    /// Writes a record: a temporary file in the same directory, flushed, then renamed (P-042).
    ///
    /// # Errors
    /// [`Error::Store`]; the old record is untouched then.
    pub fn put<T: Record>(&self, at: &RecordPath<T>, record: &T) -> Result<()> {
        let path = at.path();
        let fail = |source| Error::Store { path: path.to_owned(), source };
        fault::point_of(T::NAME, "put")?;
        let bytes = record::encode(record).map_err(|e| fail(StoreCause::Parse(e)))?;
        let mut injected = None;
        let written = self.disk.write(path, &bytes, &mut || {
            fault::point_of(T::NAME, "written").map_err(|e| {
                injected = Some(e);
                io::Error::other("fault injected")
            })
        });
        if let Some(injected) = injected {
            return Err(injected.into());
        }
        written.map_err(|e| fail(StoreCause::Write(e)))?;
        fault::point_of(T::NAME, "renamed")?;
        Ok(())
    }

    /// Removes a record. A missing one is fine.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete<T: Record>(&self, at: &RecordPath<T>) -> Result<()> {
        fault::point_of(T::NAME, "delete")?;
        self.remove_file(at.path())
    }

    /// Whether the pod's config record exists, which is what makes it a pod (P-014).
    ///
    /// # Errors
    /// [`Error::Store`] if that cannot be found out.
    pub fn exists(&self, pod: &PodDirs) -> Result<bool> {
        let path = pod.config_record();
        path.path().try_exists().map_err(|e| Error::Store { path: path.path().to_owned(), source: StoreCause::Read(e) })
    }

    /// Makes a directory with mode 0750, and the ones above it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        fault::point("store.make_dir")?;
        self.disk
            .make_dir(path)
            .map_err(|e| Error::Store { path: path.to_owned(), source: StoreCause::Directory(e) })?;
        Ok(())
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Ids of all pods, sorted: directories of the config root that hutch made and that hold a config record. No config
    /// root: no pods (P-017).
    ///
    /// # Errors
    /// [`Error::Store`] if the root cannot be read, is not hutch's, or belongs to another run root.
    pub fn pods(&self) -> Result<Vec<PodId>> {
        self.check_roots()?;
        let mut ids = directories_in(&self.config_root, |name| PodId::new(name).ok())?;
        ids.retain(|id| {
            let dirs = self.pod(id);
            self.is_marked(&dirs).unwrap_or(true) && self.exists(&dirs).unwrap_or(true)
        });
        Ok(ids)
    }

    /// Ids that have a directory in either root, pods, leftovers or directories of others, sorted.
    ///
    /// # Errors
    /// [`Error::Store`] if a root cannot be read.
    pub fn all_ids(&self) -> Result<Vec<PodId>> {
        let mut ids = directories_in(&self.config_root, |name| PodId::new(name).ok())?;
        ids.extend(directories_in(&self.run_root, |name| PodId::new(name).ok())?);
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Removes a pod's directory in the run root, the lock file last: a waiter for the lock must not find it gone while
    /// something of the old pod still exists (P-026).
    pub(crate) fn remove_run_dir(&self, pod: &PodDirs) -> Result<()> {
        self.empty_run_dir(pod.run_dir())?;
        fault::point("store.remove_lock")?;
        self.remove_pod_dir(pod.run_dir(), Place::PodRun)
    }

    /// Removes a pod's directory in the config root.
    pub(crate) fn remove_config_dir(&self, pod: &PodDirs) -> Result<()> {
        self.remove_pod_dir(pod.config_dir(), Place::PodConfig)
    }

    pub(crate) fn remove_file(&self, path: &Path) -> Result<()> {
        self.disk.remove_file(path).map_err(|e| Error::Store { path: path.to_owned(), source: StoreCause::Remove(e) })
    }

    /// Removes a directory and what is in it, without crossing mounts or following links (P-104).
    pub(crate) fn remove_dir(&self, path: &Path) -> Result<()> {
        fault::point("store.remove_dir")?;
        self.disk.remove_tree(path).map_err(|e| {
            let mounted = matches!(e.raw_os_error(), Some(libc::EXDEV | libc::EBUSY));
            let source = if mounted { StoreCause::Mounted } else { StoreCause::Remove(e) };
            Error::Store { path: path.to_owned(), source }
        })?;
        Ok(())
    }
}

/// Writes a record outside of any call of the API: a shim leaves its exit record that way. The directory
/// has to exist.
///
/// # Errors
/// [`Error::Store`].
pub fn write_record<T: Record>(path: &Path, record: &T) -> Result<()> {
    let fail = |source| Error::Store { path: path.to_owned(), source };
    let bytes = record::encode(record).map_err(|e| fail(StoreCause::Parse(e)))?;
    HostDisk.write(path, &bytes, &mut || Ok(())).map_err(|e| fail(StoreCause::Write(e)))
}

/// A file for a record that may be empty, opened by a process that will not be able to open any file later.
#[derive(Debug)]
pub struct OpenRecord<T> {
    path: PathBuf,
    file: File,
    kind: PhantomData<fn(T)>,
}

impl<T: Record> OpenRecord<T> {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |e| Error::Store { path: path.to_owned(), source: StoreCause::Write(e) };
        let file = disk::create_record(path).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, kind: PhantomData })
    }

    /// Writes the record in one piece, once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn fill(mut self, record: &T) -> Result<()> {
        let fail = |source| Error::Store { path: self.path.clone(), source };
        let bytes = record::encode(record).map_err(|e| fail(StoreCause::Parse(e)))?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_all());
        written.map_err(|e| Error::Store { path: self.path, source: StoreCause::Write(e) })
    }
}

/// As [`write_record`], but keeps an existing record that is not empty, even one that another process writes at the same
/// time.
///
/// # Errors
/// [`Error::Store`].
pub(crate) fn write_record_if_absent<T: Record>(path: &Path, record: &T) -> Result<()> {
    let fail = |source| Error::Store { path: path.to_owned(), source };
    let bytes = record::encode(record).map_err(|e| fail(StoreCause::Parse(e)))?;
    disk::write_if_absent(path, &bytes).map_err(|e| fail(StoreCause::Write(e)))
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("config_root", &self.config_root).field("run_root", &self.run_root).finish()
    }
}
