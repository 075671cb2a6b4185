//! How a record fails.

use std::io;
use std::path::PathBuf;

/// The fault of a record, or of the place it should be in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreCause {
    /// The record is missing.
    #[error("is missing; the pod's records are damaged")]
    Missing,
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It cannot be written.
    #[error("cannot be written")]
    Write(#[source] io::Error),
    /// It cannot be removed.
    #[error("cannot be removed")]
    Remove(#[source] io::Error),
    /// It cannot be locked.
    #[error("cannot be locked")]
    Lock(#[source] io::Error),
    /// A directory cannot be made.
    #[error("the directory cannot be made")]
    Directory(#[source] io::Error),
    /// The record is not valid JSON of its kind.
    #[error("is damaged")]
    Parse(#[source] serde_json::Error),
    /// A newer program wrote it.
    #[error("has format version {found}, this program knows up to {known}; use the newer hutch that wrote it")]
    Newer {
        /// The version in the file.
        found: u32,
        /// [`RECORD_VERSION`](super::RECORD_VERSION).
        known: u32,
    },
    /// The file holds a record of another kind.
    #[error("holds a record of kind {found:?}, expected {expected:?}")]
    WrongRecord {
        /// The kind in the file.
        found: String,
        /// The kind that the caller asked for.
        expected: &'static str,
    },
    /// A file or directory of others, where only hutch's may be.
    #[error(
        "was not made by hutch, which leaves it alone; move it elsewhere, or name other directories with --root and \
         --state-root"
    )]
    Foreign,
    /// A root that belongs to another one than the one that was given.
    #[error(
        "belongs to the records in {}, not to those in {}; name both directories of the same pods with --root and \
         --state-root (if the other one was moved, or is gone for good, remove the file .hutch-root.json in this one)",
        .partner.display(), .given.display()
    )]
    OtherRoot {
        /// The root that it belongs to.
        partner: PathBuf,
        /// The root that was given.
        given: PathBuf,
    },
    /// One directory was given as both roots.
    #[error("is given as --root and as --state-root; name two directories")]
    OneRoot,
    /// The runtime directory of a pod was removed while the host ran.
    #[error(
        "was removed since the host started, and the pod's machine may still run; look for its process, end it, and \
         then use --force"
    )]
    Lost,
    /// A directory still has something mounted in it, so that removing it would remove what is mounted.
    #[error("has something mounted in it; unmount it first")]
    Mounted,
}
