//! Virtio devices (VIRTIO 1.2) and their transport.

pub mod device;

pub use device::{ActivateError, Activation, DeviceInterrupt, DeviceQueue, VirtioDevice};
