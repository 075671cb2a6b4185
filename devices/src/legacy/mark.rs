//! A port on which the guest marks how far it has come: each byte written is one mark. Bochs and QEMU have a debug
//! console there, so a guest may write to it unasked.

use crate::bus::BusDevice;

/// I/O port.
pub const BASE: u64 = 0xe9;
/// One port.
pub const LEN: u64 = 1;

/// Answer of the port when read: how drivers find it.
const PRESENT: u8 = 0xe9;

/// The mark port.
pub struct MarkPort {
    mark: Box<dyn Fn(u8) + Send + Sync>,
}

impl MarkPort {
    /// Calls `mark` with each byte, on the vCPU's thread. A guest can write as many as it likes.
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
