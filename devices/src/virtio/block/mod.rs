//! Disk (VIRTIO 1.2, 5.2): one queue, one thread, and a raw image or a block device of the host behind it.
//!
//! | file | contents |
//! |---|---|
//! | `config` | the options of a disk, and the reasons for which it cannot be opened |
//! | `request` | parses and checks the guest's requests: pure functions |
//! | `backend` | the image: open, lock, read, write, flush (fdatasync(2)), discard |
//! | `drive` | the image that is in the disk now, called its medium; a slot's image may change while the guest runs |
//! | `worker` | executes one request directly on guest memory |
//! | `device` | the virtio device: [`Block`] is a [`OneQueue`](super::one_queue::OneQueue), whose thread takes requests off the queue and calls `worker` |

mod backend;
mod config;
mod device;
mod drive;
pub mod request;
mod worker;

pub use self::backend::open_image;
pub use self::config::{BlockDeviceConfig, BlockError};
pub use self::device::Block;
pub use self::drive::{BlockSlot, EJECT_TIMEOUT};
