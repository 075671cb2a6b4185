//! A keyboard controller with nothing but the reset line: Linux pulls that line to reboot.

use crate::bus::BusDevice;

/// I/O port of the data register.
pub const BASE: u64 = 0x60;
/// Number of ports from [`BASE`] on, up to the command register at 0x64.
pub const LEN: u64 = 5;

/// Command and status register.
const COMMAND: u64 = 4;
/// Command: pulse output line 0, the reset of the processor.
const RESET: u8 = 0xfe;

/// The constant status. Input buffer empty: Linux waits for that before it pulls the reset line. Output buffer full:
/// from data that never ends Linux sees at once that there is no real controller. If the buffer were empty, Linux would
/// wait half a second for an answer to its first command.
const STATUS: u8 = 0x01;

/// A controller without keyboard or mouse.
pub struct I8042 {
    reset: Box<dyn Fn() + Send + Sync>,
}

impl I8042 {
    /// Calls `reset`, on the vCPU's thread, each time the guest asks for one.
    pub fn new(reset: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { reset }
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(if offset == COMMAND { STATUS } else { 0 });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data.first() == Some(&RESET) {
            (self.reset)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let resets = Arc::new(AtomicU32::new(0));
        let count = resets.clone();
        let device = I8042::new(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        device.write(0, &[RESET]);
        device.write(COMMAND, &[0xff]);
        device.write(COMMAND, &[]);
        assert_eq!(resets.load(Ordering::SeqCst), 0);
        device.write(COMMAND, &[RESET]);
        assert_eq!(resets.load(Ordering::SeqCst), 1);
        let mut status = [0xff];
        device.read(COMMAND, &mut status);
        assert_eq!(status, [STATUS]);
        device.read(0, &mut status);
        assert_eq!(status, [0]);
    }
}
