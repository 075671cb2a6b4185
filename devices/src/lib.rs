//! Virtual devices of hutch. They know guest memory, queues and interrupts, but neither KVM nor pods.
//!
//! A device is one folder or file under [`virtio`] or [`legacy`]. The VMM puts it on a bus behind a transport, gives it
//! its queues when the guest's driver is ready, and stops it. [`virtio::VirtioDevice`] is the contract.
//!
//! | module | contents |
//! |---|---|
//! | [`bus`] | address ranges and the devices that answer there |
//! | [`irq`] | interrupt lines to the guest's interrupt controller |
//! | [`ram`] | guest memory, and the part of it that is plugged in |
//! | `sync` | locks, threads and events, which a test replaces by models |
//! | [`worker`] | device threads: wait for events, pause, stop |
//! | [`threads`] | the VMM's rules for these threads |
//! | [`rate_limit`] | rate limit for log messages that a guest can trigger |
//! | [`legacy`] | port I/O devices of a PC |
//! | [`virtio`] | transport, queues, and the virtio devices |
//! | `testing` | the driver's side, for tests (feature `testing`) |

#![deny(unsafe_code)]
// Bytes of the guest must not reach an index, an unwrap or a cast that cuts. Tests may panic.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod bus;
pub mod irq;
pub mod legacy;
pub mod ram;
pub mod rate_limit;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod threads;
pub mod virtio;
pub mod worker;

pub use ram::GuestRam;
