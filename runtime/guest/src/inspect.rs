//! `hutch guest inspect`: reads an asset completely, compares every sum and reports the parts that are out of date.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::agent::{Agent, AgentPath};
use super::apt::Apt;
use super::artifacts::{self, Recorded};
use super::assets::{load, GuestAssets};
use super::digest::Digest;
use super::distro;
use super::image::extract_vmlinux;
use super::initramfs::{Archive, Node};
use super::kernel::{source_key, GUEST_CONFIG};
use super::store::manifest::{KernelOrigin, Manifest, Stamp};
use super::store::{AssetKind, Store};
use super::GuestError;

/// Result of an inspection.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Directory with the asset's files.
    pub dir: PathBuf,
    /// Contents and origin as the manifest states them.
    pub manifest: Manifest,
    /// The asset's files, compared with the manifest.
    pub files: Vec<FileCheck>,
    /// Comparison of its kernel with the one that hutch was tested with.
    pub recorded: Recorded,
    /// The parts that are out of date. A boot replaces a changed agent by itself.
    pub stale: Vec<Stale>,
}

impl Inspection {
    /// Whether every file matches the manifest.
    pub fn is_intact(&self) -> bool {
        self.files.iter().all(|file| file.problem.is_none())
    }
}

/// A file of the asset.
#[derive(Debug, Serialize)]
pub struct FileCheck {
    /// Name within the asset's directory.
    pub name: String,
    /// Sum of its present contents.
    pub sha256: Option<Digest>,
    /// Difference from the manifest, or the failure to read it.
    pub problem: Option<String>,
}

/// A part that `hutch guest build` would renew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Stale {
    /// The agent's file differs from the one in the initramfs.
    Agent {
        /// Path of the agent's file.
        path: PathBuf,
        /// Sum of the agent's file.
        sha256: Digest,
    },
    /// The agent's file cannot be used (missing, not static, unreadable).
    AgentUnusable {
        /// The failure.
        reason: String,
    },
    /// The archive has another kernel package now.
    Package {
        /// Name and version of the new package.
        available: String,
    },
    /// The kernel would now be compiled from another source or configuration.
    Source,
    /// The kernel file of the asset has changed or is missing.
    KernelFile {
        /// Path of the kernel file.
        path: PathBuf,
    },
}

/// Inspects the asset `kind` in `dir`; `agent` as for a build.
///
/// # Errors
/// The asset does not exist, or its manifest cannot be read. Damaged files are findings, not errors.
pub fn inspect(dir: &Path, kind: &AssetKind, agent: Option<&Path>) -> Result<Inspection, GuestError> {
    inspect_with(dir, kind, agent, &Apt::default())
}

pub(crate) fn inspect_with(
    dir: &Path,
    kind: &AssetKind,
    agent: Option<&Path>,
    apt: &Apt,
) -> Result<Inspection, GuestError> {
    let store = Store::at(dir);
    let manifest = match load(&store, kind) {
        Ok(GuestAssets { manifest, .. }) => manifest,
        Err(GuestError::Damaged { path, .. }) => Manifest::load(path.parent().unwrap_or(dir), kind)?,
        Err(error) => return Err(error),
    };
    let dir = store.current(kind)?.unwrap_or_default();
    let files = manifest.files.iter().map(|(name, record)| check_file(&dir, name, record.sha256, &manifest)).collect();
    let stale = stale_agent(&manifest, agent).into_iter().chain(stale_kernel(&manifest, apt)).collect();
    Ok(Inspection { recorded: artifacts::compare(&manifest), dir, manifest, files, stale })
}

fn check_file(dir: &Path, name: &str, expected: Digest, manifest: &Manifest) -> FileCheck {
    let check = |sha256, problem| FileCheck { name: name.to_owned(), sha256, problem };
    let bytes = match std::fs::read(dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) => return check(None, Some(format!("cannot be read: {error}"))),
    };
    let got = Digest::of(&bytes);
    if got != expected {
        return check(Some(got), Some(format!("has changed: the sum was {expected}")));
    }
    let problem = match name {
        super::store::manifest::VMLINUX => extract_vmlinux(&bytes).err().map(|error| error.to_string()),
        super::store::manifest::INITRAMFS => initramfs_problem(&bytes, manifest),
        _ => None,
    };
    check(Some(got), problem)
}

/// Checks that agent and modules in the archive are those of the manifest.
fn initramfs_problem(bytes: &[u8], manifest: &Manifest) -> Option<String> {
    let archive = match Archive::read(bytes) {
        Ok(archive) => archive,
        Err(error) => return Some(error.to_string()),
    };
    match archive.get("init") {
        Some(Node::File(_, agent)) if Digest::of(agent) == manifest.agent.sha256 => {}
        Some(_) => return Some("its /init is not the agent of the manifest".to_owned()),
        None => return Some("it has no /init".to_owned()),
    }
    let absent = manifest.modules.iter().find(|module| archive.get(&format!("modules/{module}")).is_none());
    absent.map(|module| format!("it lacks the module {module}"))
}

fn stale_agent(manifest: &Manifest, given: Option<&Path>) -> Option<Stale> {
    let mut from = AgentPath::locate(given);
    if !from.given && manifest.agent.given {
        from = AgentPath { path: manifest.agent.path.clone(), given: true };
    }
    match Agent::load(&from) {
        Ok(agent) if agent.record.sha256 == manifest.agent.sha256 => None,
        Ok(agent) => Some(Stale::Agent { path: from.path, sha256: agent.record.sha256 }),
        Err(GuestError::NoAgent { .. }) if !from.given => None,
        Err(error) => Some(Stale::AgentUnusable { reason: error.to_string() }),
    }
}

/// The current state of the archive or the kernel's file; empty if it cannot be determined.
fn stale_kernel(manifest: &Manifest, apt: &Apt) -> Option<Stale> {
    let key = &manifest.kernel.key;
    match &manifest.kernel.origin {
        KernelOrigin::Package { .. } => {
            let package = distro::known(apt).ok()??;
            let available = format!("{} {}", package.name, package.version);
            (distro::key(&package) != *key).then_some(Stale::Package { available })
        }
        KernelOrigin::Source { .. } => {
            let now = source_key(GUEST_CONFIG, apt).ok()??;
            (now != *key).then_some(Stale::Source)
        }
        KernelOrigin::File { path, sha256, stamp, .. } => {
            let same = Stamp::of(path).is_ok_and(|now| now == *stamp)
                || Digest::of_file(path).is_ok_and(|(now, _)| now == *sha256);
            (!same).then_some(Stale::KernelFile { path: path.clone() })
        }
    }
}
