//! Named volumes: directories of the host that outlive pods, `volumes/NAME` beside the config root.
//!
//! A volume is created at its first use. A marker beside its directory says that hutch made it; without one it is used
//! but never removed. It has no other record: the pods' configurations name their volumes. A call that is
//! about to use a volume holds a shared flock(2) on its directory until the pod's record is written (`hutch run`, which
//! has no record: as long as it uses the volume). A removal takes the exclusive lock, so neither can act between the
//! other's check and its change.

mod hold;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::fault;
use crate::id::{random_hex, VolumeName};
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::store::{directories_in, write_record, Record, StoreCause};
use crate::timestamp::Timestamp;

pub use hold::VolumeHold;

/// Prefix of the directories of volumes under removal. The name of a volume cannot have it.
const REMOVED: &str = ".hutch-removed-";
/// Prefix of the markers of volumes.
const MARKER: &str = ".hutch-volume-";
/// Attempts to lock a volume that other processes keep removing.
const TRIES: usize = 100;

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    /// Unique among the volumes of a config root.
    pub name: String,
    /// Absolute path of its directory on the host.
    pub path: PathBuf,
    /// Time of creation, if the file system records it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Ids of the pods that name it in their configuration.
    pub pods: Vec<String>,
}

/// The marker of a volume.
#[derive(Debug, Serialize, Deserialize)]
struct VolumeMarker {
    volume: String,
}

impl Record for VolumeMarker {
    const NAME: &'static str = "volume";
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

    /// The volumes of a config root: the directory `volumes` beside it.
    pub fn beside(config_root: &Path) -> Self {
        Self::at(config_root.parent().unwrap_or(config_root).join("volumes"))
    }

    /// Locks a volume against removal; creates it if necessary.
    pub fn hold(&self, name: &VolumeName) -> Result<VolumeHold> {
        let path = self.path(name);
        for _ in 0..TRIES {
            self.make(name)?;
            match self.open_locked(name, FlockArg::LockShared)? {
                Some(lock) => {
                    fault::point("volume.held")?;
                    return Ok(VolumeHold::new(path, lock));
                }
                None => continue,
            }
        }
        Err(Error::invalid(format!("volume {name}"), "other processes keep removing it; try again"))
    }

    /// The directory of a volume, which need not exist yet.
    pub(crate) fn path(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Creates the directory; returns false if it existed.
    fn make(&self, name: &VolumeName) -> Result<bool> {
        let path = self.path(name);
        let fail = |e| Error::Store { path: path.clone(), source: StoreCause::Directory(e) };
        DirBuilder::new().recursive(true).mode(0o750).create(&self.dir).map_err(fail)?;
        if path.is_dir() {
            return Ok(false);
        }
        let _lock = self.lock_names()?;
        // The marker first: a volume never exists without one. A marker alone says nothing.
        if !self.exists_at(&path)? {
            write_record(&self.marker(name), &VolumeMarker { volume: name.to_string() })?;
        }
        fault::point("volume.marked")?;
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }

    fn marker(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(format!("{MARKER}{name}.json"))
    }

    fn exists_at(&self, path: &Path) -> Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::Store { path: path.to_owned(), source: StoreCause::Read(e) }),
        }
    }

    /// Keeps others from giving and taking names.
    fn lock_names(&self) -> Result<Flock<File>> {
        let fail = |e| Error::Store { path: self.dir.clone(), source: StoreCause::Lock(e) };
        let mut dir = File::open(&self.dir).map_err(fail)?;
        loop {
            match Flock::lock(dir, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(lock),
                Err((again, Errno::EINTR)) => dir = again,
                Err((_, errno)) => return Err(fail(errno.into())),
            }
        }
    }

    /// Opens and locks a volume's directory; `None` if it does not exist or was removed meanwhile.
    fn open_locked(&self, name: &VolumeName, how: FlockArg) -> Result<Option<Flock<File>>> {
        let path = self.path(name);
        let fail = |e| Error::Store { path: path.clone(), source: StoreCause::Lock(e) };
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let mut dir = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?,
        };
        let lock = loop {
            match Flock::lock(dir, how) {
                Ok(lock) => break lock,
                Err((again, Errno::EINTR)) => dir = again,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::invalid(
                        format!("volume {name}"),
                        "is about to be used, or in use by `hutch run`; wait for that to end",
                    ))
                }
                Err((_, errno)) => return Err(fail(errno.into())),
            }
        };
        let same = |found: &fs::Metadata, own: &fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        match (fs::symlink_metadata(&path), lock.metadata()) {
            (Ok(found), Ok(own)) if same(&found, &own) => Ok(Some(lock)),
            _ => Ok(None),
        }
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        directories_in(&self.dir, |name| VolumeName::new(name).ok())
    }

    /// Removes a volume unless `users` returns pods. It is renamed first, so other processes cannot use it even if the
    /// removal of its files fails.
    fn remove(&self, name: &VolumeName, users: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
        self.cleanup();
        let missing = || Error::NoSuchVolume(name.to_string());
        let lock = self.open_locked(name, FlockArg::LockExclusiveNonblock)?.ok_or_else(missing)?;
        if !self.exists_at(&self.marker(name))? {
            let path = self.path(name);
            let reason = format!("hutch did not make {} and leaves it alone; remove it yourself", path.display());
            return Err(Error::invalid(format!("volume {name}"), reason));
        }
        let users = users()?;
        if !users.is_empty() {
            let what = format!("volume {name}");
            return Err(Error::invalid(what, format!("is used by pod {}; remove that first", users.join(", "))));
        }
        fault::point("volume.remove")?;
        let path = self.path(name);
        let fail = |path: &Path, e| Error::Store { path: path.to_owned(), source: StoreCause::Remove(e) };
        let doomed = self.dir.join(format!("{REMOVED}{}", random_hex(8)?));
        let names = self.lock_names()?;
        fs::rename(&path, &doomed).map_err(|e| fail(&path, e))?;
        fs::remove_file(self.marker(name)).map_err(|e| fail(&self.marker(name), e))?;
        drop(names);
        fault::point("volume.renamed")?;
        drop(lock);
        fs::remove_dir_all(&doomed).map_err(|e| fail(&doomed, e))
    }

    /// Removes the files of volumes whose removal was interrupted.
    fn cleanup(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(REMOVED)).unwrap_or_default();
            if digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                // Another process may be removing it.
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    log::debug!("{}: {error}", entry.path().display());
                }
            }
        }
    }
}

impl Runtime {
    pub(crate) fn volumes(&self) -> Volumes {
        Volumes::beside(self.store().config_root())
    }

    /// Creates a volume. An existing one is fine, as it is for a container that uses it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a malformed name.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
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
    pub fn list_volumes(&self) -> Result<Vec<VolumeStatus>> {
        self.volumes().names()?.iter().map(|name| self.volume_status(name)).collect()
    }

    /// The status of one volume.
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

    /// Removes a volume with all its files.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::InvalidConfig`] if a pod uses it (the message names the pod) or is about to;
    /// [`Error::Store`], also if a pod's records are damaged: that pod may use it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        let name = VolumeName::new(name)?;
        self.volumes().remove(&name, || self.users_of_volume(&name, true))
    }

    fn volume_status(&self, name: &VolumeName) -> Result<VolumeStatus> {
        let path = self.volumes().path(name);
        let created_at = fs::metadata(&path).and_then(|meta| meta.created()).ok().map(Timestamp::from_system);
        Ok(VolumeStatus { name: name.to_string(), path, created_at, pods: self.users_of_volume(name, false)? })
    }

    /// Ids of the pods whose containers name the volume. Damaged records are an error if `strict`, else skipped.
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
    /// Turns mounts of named volumes in an OCI configuration into bind mounts of their directories. Holds the volumes
    /// for the rest of the call, which records their use.
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
