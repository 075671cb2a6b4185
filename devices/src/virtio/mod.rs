//! Virtio devices (VIRTIO 1.2) and their transport.
//!
//! | module | contents |
//! |---|---|
//! | [`mmio`] | the transport: registers, the status machine around a device |
//! | [`device`] | the interface between a device, its transport and the VMM |
//! | [`queue`], [`chain`], [`vectors`] | the device's side of a queue; the buffers of one request; lists of buffers for one system call |
//! | [`interrupt`], [`session`] | a device's interrupt; the time from activation to deactivation |
//! | [`one_queue`] | devices with one queue and one thread: takes requests off the queue and has them served |
//! | [`block`] | disk, on [`one_queue`] |
//! | [`rng`] | entropy, on [`one_queue`] |
//! | [`mem`] | pluggable memory, on [`one_queue`] |
//! | [`net`] | network, on a tap interface |
//! | [`vsock`] | streams between host and guest |
//! | [`fs`] | a shared directory |
//!
//! A request's way: the driver writes a queue's number to the notification register. KVM signals the queue's eventfd
//! (ioeventfd) without a vCPU thread. The device's thread ([`crate::worker`]) wakes, takes chains off the
//! [`DeviceQueue`], serves them, and raises the [`DeviceInterrupt`].

pub mod block;
pub mod chain;
pub mod device;
#[cfg(test)]
mod faults;
pub mod fs;
pub mod interrupt;
pub mod mem;
pub mod mmio;
pub mod net;
pub mod one_queue;
pub mod queue;
pub mod rng;
pub mod session;
pub mod vectors;
pub mod vsock;

pub use chain::{Chain, ChainError, ChainReader, ChainWriter};
pub use device::{ActivateError, Activation, VirtioDevice};
pub use interrupt::DeviceInterrupt;
pub use queue::{DeviceQueue, QueueError};
pub use session::DeviceSession;
