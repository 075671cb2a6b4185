//! virtio-fs (VIRTIO 1.2, 5.11): a directory of the host that the guest mounts. `fuse-backend-rs` serves it in this
//! process.
//!
//! | file | contents |
//! |---|---|
//! | `config` | the options of a share, and the reasons for which a device cannot be created |
//! | `root` | the directory, opened once, with a read-only mount where possible |
//! | `share` | the file system: the library's passthrough with stricter checks |
//! | `steps` | steps that several operations of a share have in common |
//! | `privileges` | the power that files of the guest have on the host |
//! | `descriptor` | descriptors of the library's inodes, and hard links by them |
//! | `single_file` | the checks of a share of a single file |
//! | `creds` | files that a guest's user creates belong to that user |
//! | `limit` | the reserve of file descriptors |
//! | `request` | checks the header of a request before the library gets it |
//! | `worker` | the threads that serve requests |
//! | `device` | the virtio device |
//! | `sys` | system calls |
//!
//! The library logs messages at level `error` that a guest can trigger at any rate and that contain bytes of the guest.
//! A program's logger should therefore ignore the target `fuse_backend_rs`.

#[cfg(test)]
mod client;
mod config;
#[cfg(test)]
mod confinement_tests;
mod creds;
mod descriptor;
mod device;
mod limit;
#[cfg(test)]
mod link_tests;
mod privileges;
#[cfg(test)]
mod proptests;
mod request;
mod root;
mod share;
mod single_file;
#[cfg(test)]
mod single_file_tests;
mod steps;
#[cfg(test)]
mod stuck_tests;
mod sys;
#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
mod worker;

pub use config::{FsCache, FsDeviceConfig, FsError, OPEN_FILES_WANTED, TAG_MAX};
pub use device::Fs;
pub use privileges::FsPrivileges;
