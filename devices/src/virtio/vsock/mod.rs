//! virtio-vsock (VIRTIO 1.2, 5.10): streams between the host and the guest, without sockets in the host's file system.
//!
//! | file | contents |
//! |---|---|
//! | `packet` | the header on the wire |
//! | `credit` | flow control of one connection: counters |
//! | `socket` | the device's end of a connection's socketpair |
//! | `connection` | one connection: the state machine between packets and socket |
//! | `rx` | the receive queue: sends packets to the guest |
//! | `muxer` | all connections, requests and refusals, and the order in which they are served |
//! | `handle` | the host's side: connect and listen |
//! | `worker` | the device's thread |
//! | `device` | the virtio device |

mod connection;
mod credit;
mod device;
#[cfg(test)]
mod guest;
mod handle;
mod muxer;
mod packet;
mod rx;
mod socket;
mod worker;

pub use device::{Vsock, VsockDeviceConfig};
pub use handle::VsockHandle;
