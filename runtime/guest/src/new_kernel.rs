//! A kernel ready to become an asset, from any of the sources.

use std::path::PathBuf;

use super::module::Modules;
use super::store::manifest::{FileRecord, KernelOrigin};

/// The kernel part of a new asset.
#[derive(Debug)]
pub(crate) struct NewKernel {
    pub(crate) vmlinux: Vmlinux,
    pub(crate) release: Option<String>,
    pub(crate) form: String,
    pub(crate) key: String,
    pub(crate) origin: KernelOrigin,
    pub(crate) modules: Modules,
}

/// An ELF kernel, in memory or in a file that does not change.
#[derive(Debug)]
pub(crate) enum Vmlinux {
    Bytes(Vec<u8>),
    File(PathBuf, FileRecord),
}
