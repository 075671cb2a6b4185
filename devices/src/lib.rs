//! Virtual devices of hutch: they know guest memory, queues and interrupts, and have never heard of KVM or of pods.
//!
//! A device is one folder or file under [`virtio`] or [`legacy`]. The VMM puts it on a bus behind a transport, hands
//! it its queues when the guest's driver is ready, and stops it again. See [`virtio::VirtioDevice`] for the contract.

pub mod irq;
pub mod virtio;

use std::sync::Arc;

/// Guest memory as devices see it: shared, cheap to clone, every access bounds-checked by `vm-memory`.
pub type GuestRam = Arc<vm_memory::GuestMemoryMmap<()>>;
