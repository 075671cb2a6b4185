//! virtio-fs (VIRTIO 1.2, 5.11): a directory of the host that the guest mounts, served in this process.
//!
//! | file | contents |
//! |---|---|
//! | `config` | the options of a share, and the reasons for which a device cannot be created |
//! | `root` | the directory, opened once, with a read-only mount where possible |
//! | `server` | the file server: FUSE requests with the files of the directory |
//! | `privileges` | the power that files of the guest have on the host |
//! | `single_file` | the checks of a share of a single file |
//! | `creds` | files that a guest's user creates belong to that user |
//! | `limit` | the bounds of file descriptors |
//! | `worker` | the threads that serve requests |
//! | `device` | the virtio device |
//! | `sys` | system calls |

#[cfg(test)]
mod client;
mod config;
#[cfg(test)]
mod confinement_tests;
mod creds;
mod device;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod kernel_tests;
mod limit;
#[cfg(test)]
mod link_tests;
mod privileges;
#[cfg(test)]
mod proptests;
mod root;
mod server;
#[cfg(test)]
mod server_tests;
mod single_file;
#[cfg(test)]
mod single_file_tests;
#[cfg(test)]
mod stuck_tests;
#[cfg(test)]
mod suite_tests;
mod sys;
#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
mod worker;

pub use config::{FsCache, FsDeviceConfig, FsError, OPEN_FILES_WANTED, TAG_MAX};
pub use device::Fs;
pub use privileges::FsPrivileges;
