//! `manifest.json` beside each asset: what it is, where it came from, and the sums of its files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::AssetKind;

/// The layout of this file. A program meeting a higher number refuses it.
pub(crate) const FORMAT: u32 = 1;
/// Its name.
pub(crate) const FILE: &str = "manifest.json";
/// The kernel's file name.
pub(crate) const VMLINUX: &str = "vmlinux";
/// The initial file system's name.
pub(crate) const INITRAMFS: &str = "initramfs.cpio";

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ManifestError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged; build the asset again with `hutch guest build --force`", path.display())]
    Corrupt { path: PathBuf, source: serde_json::Error },
    #[error("{} has format {found}, this hutch knows {FORMAT}: a newer hutch made it. Use that one, or build again with `hutch guest build --force`", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("{} describes the asset `{found}` but lies in `{expected}`; build again with `hutch guest build --force`", path.display())]
    WrongKind { path: PathBuf, found: AssetKind, expected: AssetKind },
}

/// What one asset is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the manifest.
    pub format: u32,
    /// Which asset this is.
    pub kind: AssetKind,
    /// The kernel.
    pub kernel: KernelRecord,
    /// The agent in the initramfs.
    pub agent: AgentRecord,
    /// File names of the modules in the initramfs, in the order they are loaded.
    pub modules: Vec<String>,
    /// The asset's files by name.
    pub files: BTreeMap<String, FileRecord>,
    /// When the kernel was built or taken over, seconds since 1970 (UTC).
    pub built_unix_s: u64,
    /// How long that took, in milliseconds.
    pub built_in_ms: u64,
    /// The program that did it.
    pub builder: String,
}

/// A file of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its sum.
    pub sha256: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl FileRecord {
    pub(crate) fn of(bytes: &[u8]) -> FileRecord {
        FileRecord { sha256: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// The kernel of an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// `uname -r` in the guest, where the image tells it.
    pub release: Option<String>,
    /// The form it came in, such as "bzImage, zstd".
    pub form: String,
    /// Equal keys: nothing to build.
    pub key: String,
    /// Where it came from.
    pub origin: KernelOrigin,
}

/// Where a kernel came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum KernelOrigin {
    /// A kernel package of the distribution.
    Package {
        /// The package's name.
        package: String,
        /// Its version.
        version: String,
        /// The sum of the `.deb`.
        sha256: Digest,
    },
    /// Compiled from the distribution's source package.
    Source {
        /// The package's name.
        package: String,
        /// Its version.
        version: String,
        /// The sum of the source archive.
        sha256: Digest,
        /// The sum of the requested configuration.
        config_sha256: Digest,
        /// The compiler's own name and version.
        compiler: String,
    },
    /// A file on this host.
    File {
        /// Its path.
        path: PathBuf,
        /// Its sum.
        sha256: Digest,
        /// Its identity then, so that it need not be read again to know that it is the same.
        stamp: Stamp,
        /// Where its modules were taken from.
        modules: Option<PathBuf>,
    },
}

/// The agent in an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The file it was taken from.
    pub path: PathBuf,
    /// Whether that path was given, instead of found beside the program.
    pub given: bool,
    /// Its sum.
    pub sha256: Digest,
    /// The file's identity then.
    pub stamp: Stamp,
    /// The version the agent bears, if it does.
    pub version: Option<String>,
}

/// The identity of a file without its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number. (Not the device's: that changes with each mount of some file systems.)
    pub inode: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Stamp> {
        let meta = fs::metadata(path)?;
        let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(Stamp {
            size: meta.size(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        })
    }
}

impl Manifest {
    /// Reads the manifest of the asset `expected` in `dir`.
    pub(crate) fn load(dir: &Path, expected: &AssetKind) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let path = dir.join(FILE);
        let corrupt = |source| ManifestError::Corrupt { path: path.clone(), source };
        let text = fs::read(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        let Format { format } = serde_json::from_slice(&text).map_err(corrupt)?;
        if format > FORMAT {
            return Err(ManifestError::Newer { path, found: format });
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(corrupt)?;
        if manifest.kind != *expected {
            return Err(ManifestError::WrongKind { path, found: manifest.kind, expected: expected.clone() });
        }
        Ok(manifest)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        match serde_json::to_vec_pretty(self) {
            Ok(mut json) => {
                json.push(b'\n');
                json
            }
            Err(error) => unreachable!("a manifest of strings and numbers always serializes: {error}"),
        }
    }
}
