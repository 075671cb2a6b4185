//! Holds the place of a device in its transport while another thread has the device. The transport is locked meanwhile, so
//! nothing sees it.

use crate::virtio::{ActivateError, Activation, VirtioDevice};
use crate::worker::WorkerError;

pub(super) struct Absent;

impl VirtioDevice for Absent {
    fn device_type(&self) -> u32 {
        0
    }

    fn name(&self) -> &str {
        "absent"
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Err(ActivateError::MissingQueue(0))
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }
}
