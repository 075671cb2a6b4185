//! virtio-vsock (VIRTIO 1.2, 5.10): streams between the host and the guest, without files on the host's disk.
//!
//! | file | what |
//! |---|---|
//! | `packet` | the header on the wire |
//! | `credit` | flow control of one connection: counters |
//! | `socket` | the device's end of a connection's socketpair |
//! | `connection` | one connection: state machine between packets and socket |
//! | `rx` | the receive queue: places for packets to the guest |
//! | `muxer` | all connections, requests, refusals, and whose turn it is |
//! | `handle` | the host's side: connect and listen |
//! | `device` | the device and its worker |

mod connection;
mod credit;
mod device;
#[cfg(test)]
mod guest;
mod handle;
mod muxer;
pub mod packet;
mod rx;
mod socket;
mod worker;

pub use device::{Vsock, VsockDeviceConfig};
pub use handle::VsockHandle;
