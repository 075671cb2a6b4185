//! Named volumes: directories of the host that outlive pods, `volumes/NAME` beside the config root.
//!
//! A volume is made at its first use. Nothing is recorded about it: who uses it, the configurations of pods say. Whoever is
//! about to use one holds a shared flock(2) on its directory until that is on record (or, without records, for as long as it
//! uses it); a removal takes the exclusive one, so neither can come between the other's look and deed.

mod hold;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::fault;
use crate::id::{random_hex, VolumeName};
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::store::{directories_in, StoreCause};
use crate::timestamp::Timestamp;

pub use hold::VolumeHold;

/// What the directories of volumes that are being removed begin with; no name of a volume does.
const REMOVED: &str = ".removed-";
/// Attempts to get hold of a volume that somebody else removes at the same time.
const TRIES: usize = 100;

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// When it was made, if the file system knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Pods whose configuration names it.
    pub pods: Vec<String>,
}

/// The directory of named volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    /// The volumes in `dir`, which need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The volumes that belong to a config root: those of the directory `volumes` beside it.
    pub fn beside(config_root: &Path) -> Self {
        Self::at(config_root.parent().unwrap_or(config_root).join("volumes"))
    }

    /// Gets hold of a volume, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn hold(&self, name: &VolumeName) -> Result<VolumeHold> {
        let path = self.path(name);
        for _ in 0..TRIES {
            self.make(name)?;
            match self.open_locked(name, FlockOperation::LockShared)? {
                Some(lock) => {
                    fault::point("volume.held")?;
                    return Ok(VolumeHold::new(path, lock));
                }
                None => continue,
            }
        }
        Err(Error::invalid(format!("volume {name}"), "is removed again and again by somebody else; try again"))
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Whether it was not there before.
    fn make(&self, name: &VolumeName) -> Result<bool> {
        let path = self.path(name);
        let fail = |e| Error::Store { path: path.clone(), source: StoreCause::Directory(e) };
        DirBuilder::new().recursive(true).mode(0o750).create(&self.dir).map_err(fail)?;
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }

    /// Opens and locks a volume's directory; `None` if it is not there, or was removed meanwhile.
    fn open_locked(&self, name: &VolumeName, how: FlockOperation) -> Result<Option<File>> {
        let path = self.path(name);
        let fail = |e| Error::Store { path: path.clone(), source: StoreCause::Lock(e) };
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let dir = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?,
        };
        loop {
            match flock(&dir, how) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::invalid(
                        format!("volume {name}"),
                        "is about to be used, or in use by `hutch run`; wait for that to end",
                    ))
                }
                other => break other.map_err(|e| fail(e.into()))?,
            }
        }
        let same = |found: &fs::Metadata, own: &fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        match (fs::symlink_metadata(&path), dir.metadata()) {
            (Ok(found), Ok(own)) if same(&found, &own) => Ok(Some(dir)),
            _ => Ok(None),
        }
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        directories_in(&self.dir, |name| VolumeName::new(name).ok())
    }

    /// Removes a volume, unless `users` names somebody. Gone at once for everybody else, whatever becomes of its files.
    fn remove(&self, name: &VolumeName, users: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
        self.cleanup();
        let missing = || Error::NoSuchVolume(name.to_string());
        let lock = self.open_locked(name, FlockOperation::NonBlockingLockExclusive)?.ok_or_else(missing)?;
        let users = users()?;
        if !users.is_empty() {
            let what = format!("volume {name}");
            return Err(Error::invalid(what, format!("is used by pod {}; remove that first", users.join(", "))));
        }
        fault::point("volume.remove")?;
        let path = self.path(name);
        let fail = |path: &Path, e| Error::Store { path: path.to_owned(), source: StoreCause::Remove(e) };
        let doomed = self.dir.join(format!("{REMOVED}{}", random_hex(8)?));
        fs::rename(&path, &doomed).map_err(|e| fail(&path, e))?;
        fault::point("volume.renamed")?;
        drop(lock);
        fs::remove_dir_all(&doomed).map_err(|e| fail(&doomed, e))
    }

    /// Removes the files of volumes whose removal was cut short.
    fn cleanup(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                // Somebody else may be at it.
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    log::debug!("{}: {error}", entry.path().display());
                }
            }
        }
    }
}

impl Runtime {
    fn volumes(&self) -> Volumes {
        Volumes::beside(self.store().config_root())
    }

    /// Creates a volume; one that is there already is fine, as it would be for a container that uses it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a name that cannot be one, [`Error::Store`].
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// let volume = runtime.create_volume("data")?;
    /// assert!(volume.path.is_dir());
    /// runtime.remove_volume("data")?;
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn create_volume(&self, name: &str) -> Result<VolumeStatus> {
        let name = VolumeName::new(name)?;
        let _hold = self.volumes().hold(&name)?;
        self.volume_status(&name)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// [`Error::Store`] if they cannot be told.
    pub fn list_volumes(&self) -> Result<Vec<VolumeStatus>> {
        self.volumes().names()?.iter().map(|name| self.volume_status(name)).collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub fn status_volume(&self, name: &str) -> Result<VolumeStatus> {
        let name = VolumeName::new(name)?;
        if !self.volumes().path(&name).is_dir() {
            return Err(Error::NoSuchVolume(name.to_string()));
        }
        self.volume_status(&name)
    }

    /// Removes a volume with all that is in it.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::InvalidConfig`] if a pod uses it, which is named, or is about to;
    /// [`Error::Store`], also if records of a pod are damaged, so that nobody knows whether it uses it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        let name = VolumeName::new(name)?;
        self.volumes().remove(&name, || self.users_of_volume(&name, true))
    }

    fn volume_status(&self, name: &VolumeName) -> Result<VolumeStatus> {
        let path = self.volumes().path(name);
        let created_at = fs::metadata(&path).and_then(|meta| meta.created()).ok().map(Timestamp::from_system);
        Ok(VolumeStatus { name: name.to_string(), path, created_at, pods: self.users_of_volume(name, false)? })
    }

    /// Ids of the pods whose containers name the volume. Damaged records: an error if `strict`, else nobody.
    fn users_of_volume(&self, name: &VolumeName, strict: bool) -> Result<Vec<String>> {
        let store = self.store();
        let mut users = Vec::new();
        for id in store.pods()? {
            let config = match store.get(&store.pod(&id).config_record()) {
                Err(error) if strict => return Err(error),
                // Removed meanwhile, or damaged.
                Ok(None) | Err(_) => continue,
                Ok(Some(config)) => config,
            };
            let mut mounts = config.containers.iter().flat_map(|container| &container.mounts);
            if mounts.any(|mount| mount.is_volume() && mount.source == name.as_str()) {
                users.push(id.to_string());
            }
        }
        Ok(users)
    }
}

impl OpenPod<'_> {
    /// Makes mounts of named volumes in an OCI configuration to bind mounts of their directories. The volumes are held for
    /// the rest of the call, which puts on record that they are used.
    pub(crate) fn resolve_volumes(&mut self, oci: &mut Value) -> Result<()> {
        let mounts = oci.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten();
        for mount in mounts.filter(|mount| mount["type"] == "volume") {
            let name = VolumeName::new(mount["source"].as_str().unwrap_or_default())?;
            let hold = self.rt.volumes().hold(&name)?;
            mount["type"] = json!("bind");
            mount["source"] = json!(hold.path());
            match mount["options"].as_array_mut() {
                Some(options) => options.push(json!("rbind")),
                None => mount["options"] = json!(["rbind"]),
            }
            self.volumes.push(hold);
        }
        Ok(())
    }
}
