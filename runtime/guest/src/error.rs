//! Errors of guest assets. Messages name the file or package and the remedy; the chain is printed once, at the top.

use std::io;
use std::path::PathBuf;

use super::apt::AptError;
use super::digest::Digest;
use super::image::ImageError;
use super::initramfs::CpioError;
use super::kernel::SourceError;
use super::module::ModuleError;
use super::store::manifest::ManifestError;
use super::store::{AssetKind, StoreError};

/// A guest asset that cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GuestError {
    #[error("the guest asset `{kind}` does not exist in {}; make it with `hutch guest build --kernel {kind}`", dir.display())]
    NotBuilt { kind: AssetKind, dir: PathBuf },
    #[error("the guest asset's file {} is {what}; build it again with `hutch guest build --force`", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("the agent {} does not exist; build it (`cargo build -p hutch-agent`) or name it with --agent or HUTCH_AGENT", path.display())]
    NoAgent { path: PathBuf },
    #[error("the agent for containers {} does not exist; build it (`cargo build -p hutch-agent-oci`) or name it with HUTCH_AGENT_OCI", path.display())]
    NoOciAgent { path: PathBuf },
    #[error("cannot read the agent {}", path.display())]
    ReadAgent { path: PathBuf, source: io::Error },
    #[error("the agent {} cannot be a guest's first program", path.display())]
    BadAgent { path: PathBuf, source: ImageError },
    #[error("the agent {} is not the one in the guest asset, and the asset cannot be changed; run `hutch guest build` as the owner of {}", agent.display(), dir.display())]
    StaleAgent { agent: PathBuf, dir: PathBuf, source: Box<GuestError> },
    #[error("cannot read the kernel {}; --kernel takes distro, host, source or a kernel's path", path.display())]
    ReadKernel { path: PathBuf, source: io::Error },
    #[error("cannot use the kernel {}", path.display())]
    BadKernel { path: PathBuf, source: ImageError },
    #[error("this host's own kernel is not at {}; use `--kernel distro` or name a kernel file", path.display())]
    NoHostKernel { path: PathBuf },
    #[error("apt knows no cloud kernel (linux-image-6.12*-cloud-amd64 or linux-image-cloud-amd64); use `--kernel host` or name a kernel file")]
    NoDistroKernel,
    #[error("the package {package} has no /boot/vmlinuz; use another kernel (`--kernel PATH`)")]
    NoKernelInPackage { package: String },
    #[error("the package {package} {version} has the SHA-256 sum {got}, but {expected} is on record for that version; do not use it, and find out who changed it")]
    UnexpectedPackage { package: String, version: String, expected: Digest, got: Digest },
    #[error("cannot make a temporary directory; see TMPDIR")]
    TemporaryDir { source: io::Error },
    #[error(transparent)]
    Apt(#[from] AptError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("the initramfs cannot be made")]
    Initramfs(#[from] CpioError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
