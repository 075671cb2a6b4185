//! Virtio devices (VIRTIO 1.2) and their transport.

pub mod block;
pub mod chain;
pub mod device;
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
pub use session::Session;
