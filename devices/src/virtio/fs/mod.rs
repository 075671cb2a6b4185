//! virtio-fs (VIRTIO 1.2, 5.11): a directory of the host for the guest to mount, served in this process by
//! `fuse-backend-rs`.
//!
//! | file | what |
//! |---|---|
//! | `config` | what a share is made of |
//! | `root` | the directory, opened once; a read-only mount where that is possible |
//! | `share` | the file system: the library's passthrough with what it leaves open closed |
//! | `creds` | files that a guest's user makes belong to that user |
//! | `limit` | file descriptors that guests do not get |
//! | `request` | the head of a request, checked before the library gets it |
//! | `worker` | the threads that serve requests |
//! | `device` | the virtio device |
//! | `sys` | system calls |
//!
//! The library logs at `error` what a guest can trigger at any rate, guest bytes included: a program's logger leaves
//! the target `fuse_backend_rs` out.

#[cfg(test)]
mod client;
mod config;
#[cfg(test)]
mod confinement_tests;
mod creds;
mod device;
mod limit;
#[cfg(test)]
mod proptests;
mod request;
mod root;
mod share;
mod single_file;
#[cfg(test)]
mod single_file_tests;
mod sys;
#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
mod worker;

pub use config::{FsCache, FsDeviceConfig, FsError, OPEN_FILES_WANTED, TAG_MAX};
pub use device::Fs;
