//! How a record fails.

use std::io;

/// The fault of a record, or of the place it should be in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreCause {
    /// It should exist and does not.
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
    /// It is not what it should be.
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
        /// In the file.
        found: String,
        /// Asked for.
        expected: &'static str,
    },
    /// A directory still has something mounted in it, so that removing it would remove what is mounted.
    #[error("has something mounted in it; unmount it first")]
    Mounted,
}
