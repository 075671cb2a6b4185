//! Boot files of a pod's machine: the kernel of an asset, and its initramfs with the agent for containers.
//!
//! A pod records the paths and may boot again long after the asset was replaced. So its files lie in a directory that
//! is named by their contents and never changes: `DIR/.pod-HASH/{vmlinux,initramfs.cpio,source.json}`. The kernel is a
//! link to the asset's. The first use (for example `hutch guest build`) makes the directory; `source.json` identifies
//! it later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::agent::{Agent, AgentPath};
use super::assets::{GuestAssets, KernelChoice};
use super::digest::Digest;
use super::initramfs;
use super::store::manifest::{EmbeddedAgent, FileRecord, Stamp, INITRAMFS, VMLINUX};
use super::store::{self, Contents, Store, StoreError};
use super::GuestError;

/// Prefix of the directories' names.
const PREFIX: &str = ".pod-";
/// The record of the sources.
const RECORD: &str = "source.json";
/// Number of directories to keep, the last used ones, in addition to those that pods name: a stopped pod boots from
/// them again. A running machine no longer needs its directory.
const KEPT: usize = 16;

/// Kernel and initramfs for pods. The files do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAssets {
    /// The ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The initramfs with the agent for containers as `/init`.
    pub initrd: PathBuf,
    /// Whether the kernel supports hot-plugged memory; see [`GuestAssets::can_grow`].
    pub can_grow: bool,
}

/// Sources of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    kernel: FileRecord,
    /// The asset's initramfs, from which the modules come.
    base: FileRecord,
    agent: EmbeddedAgent,
}

impl PodAssets {
    /// The files for `kernel` in `dir`, with the agent that `HUTCH_AGENT_OCI` names, or with `hutch-agent-oci` beside
    /// this executable or beside `HUTCH_AGENT`. Missing files are made first. Then old directories are removed, except
    /// those that contain a file of `named`, the files of the recorded pods. If `named` returns `None` (unknown) all
    /// stay.
    ///
    /// # Errors
    /// As [`GuestAssets::open`]; [`GuestError::NoOciAgent`].
    pub fn open(
        dir: &Path,
        kernel: KernelChoice,
        named: impl FnOnce() -> Option<Vec<PathBuf>>,
    ) -> Result<PodAssets, GuestError> {
        let assets = GuestAssets::open(dir, kernel)?;
        let can_grow = assets.can_grow();
        Ok(PodAssets { can_grow, ..PodAssets::of(dir, &assets, &AgentPath::locate_oci(), named)? })
    }

    pub(crate) fn of(
        dir: &Path,
        assets: &GuestAssets,
        agent: &AgentPath,
        named: impl FnOnce() -> Option<Vec<PathBuf>>,
    ) -> Result<PodAssets, GuestError> {
        let stamp = Stamp::of(&agent.path).map_err(|source| missing(agent, source))?;
        let record = |name: &str| {
            let damaged = || GuestError::Damaged { path: dir.join(name), what: "not in the manifest".into() };
            assets.manifest.files.get(name).copied().ok_or_else(damaged)
        };
        let (kernel, base) = (record(VMLINUX)?, record(INITRAMFS)?);
        let known = |source: &Source| {
            source.kernel == kernel
                && source.base == base
                && source.agent.stamp == stamp
                && source.agent.path == agent.path
        };
        if let Some(found) = entries(dir).into_iter().find(|path| read(path).as_ref().is_some_and(known)) {
            touch(&found);
            return Ok(at(&found));
        }
        let agent = Agent::load(agent).map_err(|error| match error {
            GuestError::NoAgent { path } => GuestError::NoOciAgent { path },
            other => other,
        })?;
        let source = Source { kernel, base, agent: agent.record.clone() };
        let bytes =
            fs::read(&assets.initrd).map_err(|source| StoreError::Read { path: assets.initrd.clone(), source })?;
        let initramfs = initramfs::replace_agent(&bytes, &agent.bytes)?;
        let name = Digest::of(format!("{} {}", kernel.sha256, Digest::of(&initramfs)).as_bytes()).short();
        let path = dir.join(format!("{PREFIX}{name}"));
        install(dir, &path, &assets.kernel, &initramfs, &source)?;
        touch(&path);
        if let Some(named) = named() {
            forget_old(dir, &path, &named);
        }
        Ok(at(&path))
    }
}

fn missing(agent: &AgentPath, source: io::Error) -> GuestError {
    let path = agent.path.clone();
    match source.kind() {
        io::ErrorKind::NotFound => GuestError::NoOciAgent { path },
        _ => GuestError::ReadAgent { path, source },
    }
}

fn at(path: &Path) -> PodAssets {
    PodAssets { kernel: path.join(VMLINUX), initrd: path.join(INITRAMFS), can_grow: false }
}

/// Sources of a complete directory.
fn read(path: &Path) -> Option<Source> {
    let source: Source = serde_json::from_slice(&fs::read(path.join(RECORD)).ok()?).ok()?;
    let there = |name: &str, record: Option<FileRecord>| {
        fs::metadata(path.join(name)).is_ok_and(|meta| record.is_none_or(|record| record.size == meta.len()))
    };
    (there(VMLINUX, Some(source.kernel)) && there(INITRAMFS, None)).then_some(source)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)).map(|e| e.path()).collect()
}

/// Installs the files, all or none. Existing files with the same contents stay.
fn install(dir: &Path, path: &Path, kernel: &Path, initramfs: &[u8], source: &Source) -> Result<(), GuestError> {
    Store::at(dir).create()?;
    let failed = |source| StoreError::Write { path: path.to_owned(), source };
    let temporary = tempfile::Builder::new().prefix(".tmp-pod-").tempdir_in(dir).map_err(failed)?;
    let record = serde_json::to_vec(source).map_err(|e| failed(e.into()))?;
    store::write_durably(&temporary.path().join(RECORD), &record)?;
    if read(path).is_some() {
        // The same files from another path, for instance of an agent that has moved.
        fs::rename(temporary.path().join(RECORD), path.join(RECORD)).map_err(failed)?;
        return Ok(());
    }
    store::store(&temporary.path().join(VMLINUX), Contents::Link(kernel))?;
    store::store(&temporary.path().join(INITRAMFS), Contents::Bytes(initramfs))?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).map_err(failed)?;
    match fs::rename(temporary.path(), path) {
        Ok(()) => {
            let _ = temporary.keep();
            Ok(())
        }
        // Another process was faster.
        Err(_) if read(path).is_some() => Ok(()),
        Err(source) => Err(failed(source).into()),
    }
}

/// Records the use of the directory. A user without write permission can use it all the same.
fn touch(path: &Path) {
    if let Err(error) = fs::File::open(path).and_then(|dir| dir.set_modified(SystemTime::now())) {
        log::debug!("{}: noting its use: {error}", path.display());
    }
}

/// Removes the directories with the oldest use, except those of `named` files. Failures do not matter: the next call
/// tries again.
fn forget_old(dir: &Path, present: &Path, named: &[PathBuf]) {
    // Compares names alone, which identify the contents: the path of the directory may be written in several ways.
    let names: Vec<_> = named.iter().filter_map(|file| file.parent()?.file_name()).collect();
    let is_named = |path: &PathBuf| path.file_name().is_some_and(|name| names.contains(&name));
    let age = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut all: Vec<_> = entries(dir).into_iter().filter(|path| path != present).map(|p| (age(&p), p)).collect();
    all.sort();
    let surplus = (all.len() + 1).saturating_sub(KEPT);
    for (_, path) in all.into_iter().take(surplus).filter(|(_, path)| !is_named(path)) {
        if let Err(error) = fs::remove_dir_all(&path) {
            log::debug!("{} stays: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_directories_used_last_and_those_of_pods_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = |number: usize| dir.path().join(format!("{PREFIX}{number}"));
        for number in 0..KEPT + 4 {
            fs::create_dir(path(number)).unwrap();
            fs::write(path(number).join(VMLINUX), "").unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + number as u64);
            fs::File::open(path(number)).unwrap().set_modified(at).unwrap();
        }
        // The oldest is used, the second belongs to a pod that knows the directory by another path.
        touch(&path(0));
        let named = [PathBuf::from("/elsewhere").join(path(1).file_name().unwrap()).join(INITRAMFS)];
        forget_old(dir.path(), &path(KEPT + 3), &named);
        let gone: Vec<usize> = (0..KEPT + 4).filter(|number| !path(*number).exists()).collect();
        assert_eq!(gone, [2, 3, 4]);
    }
}
