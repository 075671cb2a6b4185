//! The guest directory. `DIR/KIND` is a link to the directory of a generation, whose kernel and initramfs never change
//! once it has its name. A new generation is written under a temporary name, made durable and renamed; then a new link
//! is renamed over the old one. So readers need no lock: they see the old asset or the new one, whole, and keep the
//! files they have resolved. The previous generation stays until the next change, for readers that are about to open
//! its files.
//!
//! ```text
//! /var/lib/hutch/guest/distro                     -> .distro-1764000000123-4711
//!                      .distro-1764000000123-4711/{vmlinux,initramfs.cpio,manifest.json}
//!                      .distro.build.lock          held during a build (minutes)
//!                      .distro.install.lock        held while the link is changed (milliseconds)
//!                      .tmp-distro-*               under construction; the next change removes an interrupted one
//! ```

pub(crate) mod lock;
pub(crate) mod manifest;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{symlink, DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub(crate) use lock::{Lock, LockError};
use manifest::{FILE, INITRAMFS, VMLINUX};

/// Longest wait for another process that changes the link.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for another build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// A kind of asset: the name of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AssetKind {
    /// The distribution's kernel package.
    Distro,
    /// The kernel that this host runs, from its /boot.
    Host,
    /// Our own kernel, compiled from the distribution's source.
    Source,
    /// A kernel file of the user, by the first twelve digits of its sum.
    Custom(String),
}

impl fmt::Display for AssetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssetKind::Distro => f.write_str("distro"),
            AssetKind::Host => f.write_str("host"),
            AssetKind::Source => f.write_str("source"),
            AssetKind::Custom(hash) => write!(f, "custom-{hash}"),
        }
    }
}

/// A word that does not name a kind of asset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a guest asset; known are distro, host, source and custom-HASH (see `hutch guest ls`)")]
pub struct UnknownKind(String);

impl FromStr for AssetKind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        match word {
            "distro" => Ok(AssetKind::Distro),
            "host" => Ok(AssetKind::Host),
            "source" => Ok(AssetKind::Source),
            _ => match word.strip_prefix("custom-") {
                Some(hash) if hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    Ok(AssetKind::Custom(hash.to_ascii_lowercase()))
                }
                _ => Err(UnknownKind(word.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for AssetKind {
    type Error = UnknownKind;
    fn try_from(word: String) -> Result<Self, UnknownKind> {
        word.parse()
    }
}

impl From<AssetKind> for String {
    fn from(kind: AssetKind) -> String {
        kind.to_string()
    }
}

/// A guest directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot create the guest directory {}; run as root, or choose one with --guest-dir or HUTCH_GUEST_DIR", path.display())]
    CreateDir { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not a link made by `hutch guest build`; move it away and build again", path.display())]
    Foreign { path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// The contents of a file for the store.
pub(crate) enum Contents<'a> {
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// An existing file of the same guest directory that never changes: linked, or copied if that fails.
    Link(&'a Path),
}

/// A guest directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(crate) fn at(dir: &Path) -> Store {
        Store { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn create(&self) -> Result<(), StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(|source| StoreError::CreateDir { path: self.dir.clone(), source })
    }

    /// Directory of `kind`'s present generation; `None` if it was never built.
    pub(crate) fn current(&self, kind: &AssetKind) -> Result<Option<PathBuf>, StoreError> {
        let link = self.dir.join(kind.to_string());
        match fs::read_link(&link) {
            Ok(target) => match target.to_str() {
                Some(name) if name.starts_with(&format!(".{kind}-")) && !name.contains('/') => {
                    Ok(Some(self.dir.join(name)))
                }
                _ => Err(StoreError::Foreign { path: link }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(StoreError::Foreign { path: link }),
            Err(source) => Err(StoreError::Read { path: link, source }),
        }
    }

    /// The kinds that have been built, sorted.
    pub(crate) fn kinds(&self) -> Result<Vec<AssetKind>, StoreError> {
        let mut kinds: Vec<AssetKind> = self.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        kinds.sort();
        Ok(kinds)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::Read { path: self.dir.clone(), source };
        match fs::read_dir(&self.dir) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Lock from the decision to build `kind` until it is installed.
    pub(crate) fn lock_build(&self, kind: &AssetKind, on_wait: &mut dyn FnMut(&str)) -> Result<Lock, StoreError> {
        Ok(Lock::acquire(&self.dir.join(format!(".{kind}.build.lock")), BUILD_TIMEOUT, on_wait)?)
    }

    /// Lock from reading the present generation of `kind` until it is replaced.
    pub(crate) fn lock_install(&self, kind: &AssetKind) -> Result<InstallLock<'_>, StoreError> {
        let path = self.dir.join(format!(".{kind}.install.lock"));
        let lock = Lock::acquire(&path, INSTALL_TIMEOUT, &mut |_| {})?;
        Ok(InstallLock { store: self, kind: kind.clone(), _lock: lock })
    }
}

/// The right to change the present generation of one kind.
pub(crate) struct InstallLock<'a> {
    store: &'a Store,
    kind: AssetKind,
    _lock: Lock,
}

impl InstallLock<'_> {
    /// Installs these files as the present generation and returns its directory.
    pub(crate) fn install(
        &self,
        vmlinux: Contents<'_>,
        initramfs: Contents<'_>,
        manifest: &[u8],
    ) -> Result<PathBuf, StoreError> {
        self.store.current(&self.kind)?; // fails if the path is not our link
        self.remove(|name| name.starts_with(&format!(".tmp-{}-", self.kind)))?;
        let prefix = format!(".tmp-{}-", self.kind);
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&self.store.dir)
            .map_err(|source| StoreError::Write { path: self.store.dir.clone(), source })?;
        fault::reached("staged");
        store(&temporary.path().join(VMLINUX), vmlinux)?;
        fault::reached("kernel");
        store(&temporary.path().join(INITRAMFS), initramfs)?;
        fault::reached("initramfs");
        write_durably(&temporary.path().join(FILE), manifest)?;
        sync_dir(temporary.path())?;
        fault::reached("manifest");
        let name = self.next_name()?;
        let generation = self.store.dir.join(&name);
        let temporary = temporary.keep();
        rename(&temporary, &generation)?;
        fault::reached("named");
        let link = self.store.dir.join(format!("{prefix}link"));
        symlink(&name, &link).map_err(|source| StoreError::Write { path: link.clone(), source })?;
        fault::reached("link");
        rename(&link, &self.store.dir.join(self.kind.to_string()))?;
        sync_dir(&self.store.dir)?;
        fault::reached("linked");
        self.forget_old()?;
        Ok(generation)
    }

    /// Replaces the manifest of the present generation, in which only paths and identities of source files have
    /// changed.
    pub(crate) fn amend(&self, manifest: &[u8]) -> Result<(), StoreError> {
        let Some(dir) = self.store.current(&self.kind)? else { return Ok(()) };
        let staged = dir.join(format!(".{FILE}"));
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Write { path: staged, source: error });
            }
            _ => {}
        }
        write_durably(&staged, manifest)?;
        rename(&staged, &dir.join(FILE))
    }

    /// A name that sorts after all others, even if the clock was set back.
    fn next_name(&self) -> Result<String, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let latest = self.generations()?.last().map_or(0, |(time, _)| time.saturating_add(1));
        Ok(format!(".{}-{:013}-{}", self.kind, now.max(latest), std::process::id()))
    }

    /// All generations, oldest first.
    fn generations(&self) -> Result<Vec<(u64, String)>, StoreError> {
        let prefix = format!(".{}-", self.kind);
        let time = |name: &str| name.strip_prefix(&prefix)?.split_once('-')?.0.parse().ok();
        let mut all: Vec<(u64, String)> =
            self.store.names()?.into_iter().filter_map(|name| Some((time(&name)?, name))).collect();
        all.sort();
        Ok(all)
    }

    /// Removes all generations except the present and the previous one.
    fn forget_old(&self) -> Result<(), StoreError> {
        let current = self.store.current(&self.kind)?;
        let mut others: Vec<String> = self.generations()?.into_iter().map(|(_, name)| name).collect();
        others.retain(|name| current.as_ref() != Some(&self.store.dir.join(name)));
        others.pop();
        self.remove(|name| others.iter().any(|other| other == name))
    }

    fn remove(&self, which: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for name in self.store.names()?.iter().filter(|name| which(name)) {
            let path = self.store.dir.join(name);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| StoreError::Write { path, source })?;
        }
        Ok(())
    }
}

pub(crate) fn store(to: &Path, contents: Contents<'_>) -> Result<(), StoreError> {
    match contents {
        Contents::Bytes(bytes) => write_durably(to, bytes),
        Contents::Link(from) => match fs::hard_link(from, to) {
            Ok(()) => Ok(()),
            Err(_) => {
                let bytes = fs::read(from).map_err(|source| StoreError::Read { path: from.to_owned(), source })?;
                write_durably(to, &bytes)
            }
        },
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|source| StoreError::Write { path: to.to_owned(), source })
}

pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

/// Points at which a test ends the process as SIGKILL would.
mod fault {
    #[cfg(test)]
    pub(super) fn reached(place: &str) {
        if std::env::var_os("HUTCH_TEST_GUEST_KILL_AT").is_some_and(|at| at == place) {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }

    #[cfg(not(test))]
    pub(super) fn reached(_: &str) {}
}

#[cfg(test)]
mod tests;
