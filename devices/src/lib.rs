//! Virtual devices of hutch: they know guest memory, queues and interrupts, and have never heard of KVM or of pods.
//!
//! A device is one folder or file under [`virtio`] or [`legacy`]. The VMM puts it on a bus behind a transport, hands
//! it its queues when the guest's driver is ready, and stops it again. See [`virtio::VirtioDevice`] for the contract.
//!
//! | module | what it is |
//! |---|---|
//! | [`bus`] | address ranges and who answers there |
//! | [`irq`] | the way from a device to the guest's interrupt controller |
//! | [`worker`] | device threads: epoll, pause, stop, state handed back |
//! | [`rate_limit`] | logging for events that a guest can trigger |
//! | [`legacy`] | port I/O devices of a PC |
//! | [`virtio`] | transport, queues, and the virtio devices |
//! | `testing` | the driver's side (feature `testing`) |

#![deny(unsafe_code)]
// Bytes of the guest must not reach an index, an unwrap or a cast that cuts. Tests may panic.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod bus;
pub mod irq;
pub mod legacy;
pub mod rate_limit;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;
pub mod worker;

use std::sync::Arc;

/// Guest memory as devices see it: shared, cheap to clone, every access bounds-checked by `vm-memory`.
pub type GuestRam = Arc<vm_memory::GuestMemoryMmap<()>>;
