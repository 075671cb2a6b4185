//! `manifest.json` of each asset: contents, origin, and the sums of its files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::AssetKind;

/// Version of the layout of this file. A program refuses a higher number.
pub(crate) const FORMAT: u32 = 1;
/// File name of the manifest.
pub(crate) const FILE: &str = "manifest.json";
/// File name of the kernel.
pub(crate) const VMLINUX: &str = "vmlinux";
/// File name of the initramfs.
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

/// Contents and origin of an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the manifest.
    pub format: u32,
    /// The kind of asset.
    pub kind: AssetKind,
    /// The kernel.
    pub kernel: KernelRecord,
    /// The agent in the initramfs.
    pub agent: EmbeddedAgent,
    /// File names of the modules in the initramfs, in the order they are loaded.
    pub modules: Vec<String>,
    /// The asset's files by name.
    pub files: BTreeMap<String, FileRecord>,
    /// Time at which the kernel was built or copied, seconds since 1970 (UTC).
    pub built_unix_s: u64,
    /// Duration of that step, in milliseconds.
    pub built_in_ms: u64,
    /// Version of the program that made the asset.
    pub builder: String,
}

/// A file of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// SHA-256 of the contents.
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
    /// `uname -r` in the guest, if the image contains it.
    pub release: Option<String>,
    /// The form of the source file, such as "bzImage, zstd".
    pub form: String,
    /// A build with the same key gives the same kernel.
    pub key: String,
    /// Origin of the kernel.
    pub origin: KernelOrigin,
}

/// Origin of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum KernelOrigin {
    /// A kernel package of the distribution.
    Package {
        /// Name of the package.
        package: String,
        /// Version of the package.
        version: String,
        /// The sum of the `.deb`.
        sha256: Digest,
    },
    /// Compiled from the distribution's source package.
    Source {
        /// Name of the package.
        package: String,
        /// Version of the package.
        version: String,
        /// The sum of the source archive.
        sha256: Digest,
        /// The sum of the requested configuration.
        config_sha256: Digest,
        /// Name and version of the compiler.
        compiler: String,
    },
    /// A file on this host.
    File {
        /// Path of the kernel file.
        path: PathBuf,
        /// SHA-256 of the file.
        sha256: Digest,
        /// Identity of the file at that time. A file with the same identity need not be read again.
        stamp: Stamp,
        /// Directory of its modules.
        modules: Option<PathBuf>,
    },
}

/// The agent in an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedAgent {
    /// Path of the source file.
    pub path: PathBuf,
    /// Whether the path was given, not found beside the program.
    pub given: bool,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Identity of the file at that time.
    pub stamp: Stamp,
    /// Version of the agent, if the file contains it.
    pub version: Option<String>,
}

/// Identity of a file apart from its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number. (The device number may change with each mount.)
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
