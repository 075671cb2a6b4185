//! A port that the guest writes to when it reaches a stage of its boot: each byte is one mark. Bochs and QEMU have a
//! debug console at this port, so any guest may write to it.

use crate::bus::BusDevice;

/// I/O port of Bochs' debug console.
pub const BASE: u64 = 0xe9;
/// Number of ports.
pub const LEN: u64 = 1;

/// Value of a read, by which drivers find the port.
const PRESENT: u8 = 0xe9;

/// A port that reports each byte that the guest writes.
pub struct MarkPort {
    mark: Box<dyn Fn(u8) + Send + Sync>,
}

impl MarkPort {
    /// Calls `mark` with each byte, on the vCPU's thread. The guest may write any number of bytes.
    pub fn new(mark: Box<dyn Fn(u8) + Send + Sync>) -> Self {
        Self { mark }
    }
}

impl BusDevice for MarkPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        for byte in data {
            (self.mark)(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn every_byte_is_a_mark() {
        let marks = Arc::new(Mutex::new(Vec::new()));
        let seen = marks.clone();
        let port = MarkPort::new(Box::new(move |byte| seen.lock().unwrap().push(byte)));
        port.write(0, b"I");
        port.write(0, b"AC");
        assert_eq!(*marks.lock().unwrap(), b"IAC");
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [PRESENT]);
    }
}
