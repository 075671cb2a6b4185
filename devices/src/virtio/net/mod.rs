//! Network (VIRTIO 1.2, 5.1): a pair of queues, one thread, and a tap interface of the host behind it.
//!
//! | file | contents |
//! |---|---|
//! | `header` | the header before each frame: pure functions |
//! | `backend` | the trait of the host's end |
//! | `tap` | a tap interface as the host's end |
//! | `receive`, `transmit` | the two directions |
//! | `worker` | the thread |
//! | `device` | the virtio device |

mod backend;
mod device;
mod header;
mod receive;
mod tap;
mod transmit;
mod worker;

pub use self::backend::NetBackend;
pub use self::device::{Net, NetDeviceConfig, NetError};
pub use self::tap::{Tap, TapError};
