//! Which directories are hutch's: the marker files, and the two roots that belong together.
//!
//! A root and each pod directory hold a marker, a record that hutch writes when it makes the directory. A pod directory
//! appears under its name with the marker in it: it is made under a temporary name and renamed. A directory without a
//! marker is never changed. A root without one is adopted if all that it holds is hutch's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::known;
use super::lock::remove_reservations;
use super::names::{self, Place, POD_MARKER, RESERVATION, ROOT_MARKER};
use super::record::{self, Record};
use super::{directories_in, ContainerDirs, PodDirs, Store, StoreCause};
use crate::error::{Error, Result};
use crate::fault;
use crate::id::{random_hex, PodId};
use crate::logger;

/// Beginning of the names of directories that are being made or removed; 16 hexadecimal digits follow.
const TEMPORARY_DIR: &str = ".hutch-tmp-";
/// Attempts to make a directory that other processes keep removing.
const TRIES: usize = 100;
/// A directory that the file system itself keeps at its top.
const LOST_AND_FOUND: &str = "lost+found";

/// The kind of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RootKind {
    /// Configurations, which survive a restart of the host.
    Config,
    /// States, sockets and locks.
    Run,
}

/// The marker of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootMarker {
    /// The root's kind.
    pub(crate) kind: RootKind,
    /// The other root, which holds the other half of the same pods.
    pub(crate) partner: PathBuf,
}

/// The marker of a pod's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodMarker {
    /// The pod.
    pub(crate) pod: String,
    /// The root of the pod's other directory.
    pub(crate) partner: PathBuf,
    /// Boot of the host in which the pod's runtime directory was made; empty if that is not known.
    #[serde(default)]
    pub(crate) boot_id: String,
}

impl Record for RootMarker {
    const NAME: &'static str = "root";
}

impl Record for PodMarker {
    const NAME: &'static str = "pod-directory";
}

/// Id of the running boot of the host (random(4)); empty if it cannot be read.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
    })
}

/// Whether a name is that of a directory under construction or removal.
fn is_temporary_dir(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_DIR)
        .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::Store { path: path.to_owned(), source: StoreCause::Read(e) }),
    }
}

fn same_directory(one: &Path, other: &Path) -> bool {
    one == other
        || match (fs::metadata(one), fs::metadata(other)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => false,
        }
}

impl Store {
    fn root(&self, kind: RootKind) -> &Path {
        match kind {
            RootKind::Config => self.config_root(),
            RootKind::Run => self.run_root(),
        }
    }

    fn partner(&self, kind: RootKind) -> &Path {
        match kind {
            RootKind::Config => self.run_root(),
            RootKind::Run => self.config_root(),
        }
    }

    /// Checks that the two roots are hutch's and belong together. Roots that do not exist, or are empty, are fine; an
    /// older one without marker is adopted if it holds nothing but pods. Costs nothing once both markers were seen.
    ///
    /// # Errors
    /// [`Error::Store`] that names the directory, or what is in it, with the remedy.
    pub(crate) fn check_roots(&self) -> Result<()> {
        if self.paired.load(Ordering::Relaxed) {
            return Ok(());
        }
        let config = self.check_root(RootKind::Config, false)?;
        let run = self.check_root(RootKind::Run, false)?;
        self.paired.store(config && run, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the root has its marker; with `make` it gets one.
    fn check_root(&self, kind: RootKind, make: bool) -> Result<bool> {
        let root = self.root(kind);
        let fail = |e| Error::Store { path: root.to_owned(), source: StoreCause::Read(e) };
        if self.config_root() == self.run_root() {
            return Err(Error::Store { path: root.to_owned(), source: StoreCause::OneRoot });
        }
        if let Some(done) = self.check_marker(kind, make)? {
            return Ok(done);
        }
        // Two processes may make the same root; only one of them writes the marker.
        let dir = match File::open(root) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(fail(e)),
        };
        dir.lock().map_err(fail)?;
        if let Some(done) = self.check_marker(kind, make)? {
            return Ok(done);
        }
        self.adopt_contents(kind)?;
        let marker = RootMarker { kind, partner: self.partner(kind).to_owned() };
        self.write_marker(&root.join(ROOT_MARKER), &marker)?;
        Ok(true)
    }

    /// `Some` if nothing has to be written: whether there is a marker.
    fn check_marker(&self, kind: RootKind, make: bool) -> Result<Option<bool>> {
        let root = self.root(kind);
        let Some(marker) = self.read_marker::<RootMarker>(&root.join(ROOT_MARKER))? else {
            let empty = !make && self.is_unused(root)?;
            return Ok(empty.then_some(false));
        };
        let partner = self.partner(kind);
        if marker.kind == kind && same_directory(&marker.partner, partner) {
            return Ok(Some(true));
        }
        // The partner of a config root is lost with every restart of the host. Without pods there is nothing to lose.
        let free =
            marker.kind == kind && ((kind == RootKind::Config && !exists(&marker.partner)?) || self.is_unused(root)?);
        match (free, make) {
            (true, true) => Ok(None),
            (true, false) => Ok(Some(false)),
            (false, _) => {
                let source = StoreCause::OtherRoot { partner: marker.partner, given: partner.to_owned() };
                Err(Error::Store { path: root.to_owned(), source })
            }
        }
    }

    /// Whether a root does not exist or holds nothing but files of hutch's own.
    fn is_unused(&self, root: &Path) -> Result<bool> {
        let fail = |e| Error::Store { path: root.to_owned(), source: StoreCause::Read(e) };
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(fail(e)),
        };
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            let name = name.to_string_lossy();
            if !is_own_name(&name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Marks the pod directories in a root without marker; refuses a root that holds anything else.
    fn adopt_contents(&self, kind: RootKind) -> Result<()> {
        let root = self.root(kind);
        let fail = |e| Error::Store { path: root.to_owned(), source: StoreCause::Read(e) };
        let mut pods = Vec::new();
        for entry in fs::read_dir(root).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if is_own_name(&name.to_string_lossy()) {
                continue;
            }
            let foreign = || Error::Store { path: entry.path(), source: StoreCause::Foreign };
            let id = name.to_str().and_then(|name| PodId::new(name).ok()).ok_or_else(foreign)?;
            let is_dir = entry.file_type().map_err(fail)?.is_dir();
            let dirs = self.pod(&id);
            if !is_dir || !self.is_pod_directory(kind, &dirs)? {
                return Err(foreign());
            }
            pods.push((id, dirs));
        }
        for (id, dirs) in pods {
            let (dir, boot_id) = match kind {
                RootKind::Config if !exists(dirs.state_record().path())? => (dirs.config_dir(), ""),
                RootKind::Config => (dirs.config_dir(), boot_id()),
                RootKind::Run => (dirs.run_dir(), boot_id()),
            };
            let at = dir.join(POD_MARKER);
            if !exists(&at)? {
                self.write_marker(&at, &self.pod_marker(kind, &id, boot_id))?;
            }
        }
        Ok(())
    }

    /// Whether a directory without marker is a pod's: it holds a record of hutch's and nothing else.
    fn is_pod_directory(&self, kind: RootKind, dirs: &PodDirs) -> Result<bool> {
        let (dir, place) = match kind {
            RootKind::Config => (dirs.config_dir(), Place::PodConfig),
            RootKind::Run => (dirs.run_dir(), Place::PodRun),
        };
        if known::foreign_in(dir, place)?.is_some() {
            return Ok(false);
        }
        if kind == RootKind::Config {
            return Ok(self.get(&dirs.config_record()).ok().flatten().is_some());
        }
        let vm = self.get(&dirs.vm_record()).ok().flatten();
        // A pod of another config root may be running there.
        let lives = vm.as_ref().is_some_and(|vm| vm.process.is_alive());
        if lives && !exists(dirs.config_record().path())? {
            return Ok(false);
        }
        let has_state = self.get(&dirs.state_record()).ok().flatten().is_some();
        Ok(has_state || vm.is_some() || exists(&dirs.lock())?)
    }

    fn pod_marker(&self, kind: RootKind, id: &PodId, boot_id: &str) -> PodMarker {
        PodMarker { pod: id.to_string(), partner: self.partner(kind).to_owned(), boot_id: boot_id.to_owned() }
    }

    /// Checks that the pod's directories, as far as they exist, are hutch's.
    ///
    /// # Errors
    /// [`Error::Store`] that names the directory, with the remedy.
    pub(crate) fn check_owner(&self, pod: &PodDirs) -> Result<()> {
        self.check_roots()?;
        for dir in [pod.config_dir(), pod.run_dir()] {
            let marker = dir.join(POD_MARKER);
            // Asked twice: another call may have made the directory, or removed it, in between.
            if !exists(&marker)? && exists(dir)? && !exists(&marker)? && exists(dir)? {
                return Err(Error::Store { path: dir.to_owned(), source: StoreCause::Foreign });
            }
        }
        Ok(())
    }

    /// Whether hutch made the pod's directory in the config root.
    pub(super) fn is_marked(&self, pod: &PodDirs) -> Result<bool> {
        exists(&pod.config_dir().join(POD_MARKER))
    }

    /// Checks that the pod's directories hold nothing but records.
    ///
    /// # Errors
    /// [`Error::Store`] that names a file of others, with the remedy.
    pub(crate) fn check_removable(&self, pod: &PodDirs) -> Result<()> {
        self.check_owner(pod)?;
        for (dir, place) in [(pod.config_dir(), Place::PodConfig), (pod.run_dir(), Place::PodRun)] {
            if let Some(path) = known::foreign_in(dir, place)? {
                return Err(Error::Store { path, source: StoreCause::Foreign });
            }
        }
        Ok(())
    }

    /// Checks that a container's directories hold nothing but records.
    ///
    /// # Errors
    /// [`Error::Store`] that names a file of others, with the remedy.
    pub(crate) fn check_container_removable(&self, container: &ContainerDirs) -> Result<()> {
        let places = [(container.config_dir(), Place::ContainerConfig), (container.run_dir(), Place::ContainerRun)];
        for (dir, place) in places {
            if let Some(path) = known::foreign_in(dir, place)? {
                return Err(Error::Store { path, source: StoreCause::Foreign });
            }
        }
        Ok(())
    }

    /// Makes the run root, with its marker.
    pub(super) fn make_run_root(&self) -> Result<()> {
        self.check_roots()?;
        self.make_plain_dir(self.run_root())?;
        self.check_root(RootKind::Run, true).map(drop)
    }

    /// Makes the pod's directory in the config root.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn make_config_dir(&self, id: &PodId) -> Result<()> {
        self.make_pod_dir(RootKind::Config, id)
    }

    /// Makes the pod's directory in the run root.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn make_run_dir(&self, id: &PodId) -> Result<()> {
        self.make_pod_dir(RootKind::Run, id)
    }

    /// Makes a pod's directory with its marker, under a temporary name first: a caller that is killed leaves a
    /// directory that is known to be hutch's.
    fn make_pod_dir(&self, kind: RootKind, id: &PodId) -> Result<()> {
        let root = self.root(kind);
        let dir = root.join(id.as_str());
        let fail = |e| Error::Store { path: dir.clone(), source: StoreCause::Directory(e) };
        fault::point("store.make_dir")?;
        for _ in 0..TRIES {
            if exists(&dir.join(POD_MARKER))? {
                return Ok(());
            }
            if exists(&dir)? {
                // It may have been made just now.
                if exists(&dir.join(POD_MARKER))? {
                    return Ok(());
                }
                return Err(Error::Store { path: dir, source: StoreCause::Foreign });
            }
            self.make_plain_dir(root)?;
            self.check_root(kind, true)?;
            let temporary = root.join(format!("{TEMPORARY_DIR}{}", random_hex(8)?));
            self.make_plain_dir(&temporary)?;
            let made: Result<io::Result<()>> = (|| {
                fault::point("store.unmarked")?;
                self.write_marker(&temporary.join(POD_MARKER), &self.pod_marker(kind, id, boot_id()))?;
                fault::point("store.marked")?;
                Ok(fs::rename(&temporary, &dir))
            })();
            if !matches!(made, Ok(Ok(())))
                && let Err(error) = self.remove_known(&temporary, Place::PodRun)
            {
                logger::warn!("{}", error.chain());
            }
            match made? {
                Ok(()) => return Ok(()),
                // Another process made it meanwhile, or took this one for a leftover.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(fail(io::Error::other("other processes keep removing it; try again")))
    }

    /// The marker in the pod's config directory now belongs to the present boot of the host.
    pub(super) fn mark_boot(&self, id: &PodId, pod: &PodDirs) -> Result<()> {
        let marker = self.pod_marker(RootKind::Config, id, boot_id());
        self.write_marker(&pod.config_dir().join(POD_MARKER), &marker)
    }

    /// Boot of the host in which the pod's runtime directory was made; `None` if that is not known.
    pub(super) fn boot_of(&self, pod: &PodDirs) -> Result<Option<String>> {
        let marker = self.read_marker::<PodMarker>(&pod.config_dir().join(POD_MARKER))?;
        Ok(marker.map(|marker| marker.boot_id))
    }

    /// Moves a pod's directory out of the way, which ends it at one stroke, and removes it.
    pub(super) fn remove_pod_dir(&self, dir: &Path, place: Place) -> Result<()> {
        let fail = |e| Error::Store { path: dir.to_owned(), source: StoreCause::Remove(e) };
        let Some(root) = dir.parent() else { return Ok(()) };
        let doomed = root.join(format!("{TEMPORARY_DIR}{}", random_hex(8)?));
        fault::point("store.remove_dir")?;
        match fs::rename(dir, &doomed) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(fail)?,
        }
        fault::point("store.renamed")?;
        self.remove_known(&doomed, place)
    }

    /// Removes directories that a killed call was making or removing.
    pub(crate) fn remove_temporary_dirs(&self) -> Result<()> {
        for (root, place) in [(self.config_root(), Place::PodConfig), (self.run_root(), Place::PodRun)] {
            for name in directories_in(root, |name| is_temporary_dir(name).then(|| name.to_owned()))? {
                self.remove_known(&root.join(name), place)?;
            }
        }
        remove_reservations(self.run_root());
        Ok(())
    }

    fn make_plain_dir(&self, path: &Path) -> Result<()> {
        self.disk().make_dir(path).map_err(|e| Error::Store { path: path.to_owned(), source: StoreCause::Directory(e) })
    }

    fn write_marker<T: Record>(&self, path: &Path, marker: &T) -> Result<()> {
        let fail = |source| Error::Store { path: path.to_owned(), source };
        let bytes = record::encode(marker).map_err(|e| fail(StoreCause::Parse(e)))?;
        self.disk().write(path, &bytes, &mut || Ok(())).map_err(|e| fail(StoreCause::Write(e)))
    }

    fn read_marker<T: Record>(&self, path: &Path) -> Result<Option<T>> {
        let fail = |source| Error::Store { path: path.to_owned(), source };
        match self.disk().read(path) {
            // The root is a file, which the reading of the directory reports.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(e) => Err(fail(StoreCause::Read(e))),
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => record::decode(&bytes).map(Some).map_err(fail),
        }
    }
}

/// Whether a name in a root is one that only hutch, or the file system itself, gives.
fn is_own_name(name: &str) -> bool {
    name == LOST_AND_FOUND
        || is_temporary_dir(name)
        || name.starts_with(RESERVATION)
        || names::is_marker(name, ROOT_MARKER)
}
