//! Guest assets: the kernel and the initramfs of a machine, built once and kept under `/var/lib/hutch/guest`.
//!
//! ```text
//!             distro ── apt ─── .deb ──┐
//!             host ──── /boot ─────────┼─ bzImage ─ image ─→ vmlinux ─┐
//!  --kernel   PATH ────────────────────┘                              │
//!             source ── apt ─── kernel (make) ──────────→ vmlinux ────┼─ store ─→ DIR/KIND/{vmlinux,
//!             modules of the kernel ── module ─┐                      │            initramfs.cpio,
//!  --agent    PATH ────────────────── agent ───┴─ initramfs ──────────┘            manifest.json}
//! ```
//!
//! [`build`] makes an asset, every boot calls [`GuestAssets::open`], [`inspect`] checks each byte. All run on the
//! caller's thread and print nothing; they report to a [`Progress`].
//!
//! | file | contents |
//! |---|---|
//! | `build`, `assets`, `open`, `inspect` | makes an asset; lists assets; opens one for a boot; verifies one |
//! | `store`, `new_kernel`, `artifacts` | generations in the guest directory; a kernel before it is one; versions that are tested |
//! | `distro`, `local`, `kernel`, `image` | kernels from Debian, from this host and from source; from bzImage to vmlinux |
//! | `module`, `initramfs`, `agent` | kernel modules; the initramfs; the agent that goes into it |
//! | `pod` | kernel and initramfs of a pod, whose agent runs containers |
//! | `apt`, `tool`, `digest`, `progress`, `error` | Debian's archive; programs of the host; SHA-256 sums; progress reports; errors |
//!
//! ```no_run
//! use hutch_guest::{guest_dir, GuestAssets, GuestError, KernelChoice};
//!
//! # fn main() -> Result<(), GuestError> {
//! let dir = guest_dir(None);
//! let assets = GuestAssets::open(&dir, KernelChoice::Distro)?;
//! println!("boot {} with {}", assets.kernel.display(), assets.initrd.display());
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod agent;
mod apt;
mod artifacts;
mod assets;
mod build;
mod digest;
mod distro;
mod error;
mod image;
mod initramfs;
mod inspect;
pub mod kernel;
mod local;
mod module;
mod new_kernel;
mod open;
mod pod;
mod progress;
mod store;
mod tool;

pub use agent::{AGENT_VARIABLE, OCI_AGENT_VARIABLE};
pub use apt::AptError;
pub use artifacts::Recorded;
pub use assets::{guest_dir, GuestAssets, KernelChoice, ListedAsset, DEFAULT_DIR, DIR_VARIABLE};
pub use build::{build, BuildAction, BuildReport, BuildRequest};
pub use digest::Digest;
pub use error::GuestError;
pub use image::{extract_vmlinux, Compression, ImageError, ImageForm, MAX_VMLINUX};
pub use initramfs::CpioError;
pub use inspect::{inspect, FileCheck, Inspection, Stale};
pub use module::ModuleError;
pub use pod::PodAssets;
pub use progress::{BuildEvent, Progress};
pub use store::lock::LockError;
pub use store::manifest::{EmbeddedAgent, FileRecord, KernelOrigin, KernelRecord, Manifest, ManifestError, Stamp};
pub use store::{AssetKind, StoreError, UnknownKind};
pub use tool::ToolError;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
