//! A device that records its accesses.

use std::sync::Mutex;

use crate::bus::BusDevice;

/// Records writes as offset and bytes. A read fills its buffer with the low byte of the offset.
#[derive(Debug, Default)]
pub struct BusRecorder(Mutex<Vec<(u64, Vec<u8>)>>);

impl BusRecorder {
    /// All writes so far, oldest first.
    pub fn writes(&self) -> Vec<(u64, Vec<u8>)> {
        self.0.lock().unwrap().clone()
    }
}

impl BusDevice for BusRecorder {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}
