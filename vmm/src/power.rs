//! Power-off and reset by ACPI's registers (ACPI 6.4, 4.8.3.7 and 4.8.3.6): two I/O ports. Called on vCPU threads.

use hutch_devices::bus::BusDevice;

use crate::arch::x86_64::layout;

/// SLP_EN of the sleep control register; SLP_TYP is in bits 2 to 4.
const SLEEP_ENABLE: u8 = 1 << 5;

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Power off (S5).
    Off,
    /// Reset the machine.
    Reset,
}

/// The sleep control, sleep status and reset registers.
pub struct PowerPorts {
    request: Box<dyn Fn(PowerRequest) + Send + Sync>,
}

impl PowerPorts {
    /// Calls `request` on the vCPU's thread when the guest asks for power-off or reset.
    pub fn new(request: Box<dyn Fn(PowerRequest) + Send + Sync>) -> Self {
        Self { request }
    }
}

impl BusDevice for PowerPorts {
    /// Reads the sleep status register: the machine never wakes from sleep.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(value) = data.first() else { return };
        if offset == u64::from(layout::RESET_PORT - layout::SLEEP_PORT) {
            if *value == layout::RESET_VALUE {
                (self.request)(PowerRequest::Reset);
            }
        } else if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == layout::SLEEP_TYPE_S5 {
            (self.request)(PowerRequest::Off);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn only_s5_with_its_enable_bit_and_the_reset_value_do_anything() {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let ports = PowerPorts::new(Box::new(move |request| seen.lock().expect("no panics").push(request)));
        for (offset, data) in [(0, vec![5 << 2]), (0, vec![3 << 2 | 0x20]), (0, vec![0x80]), (1, vec![0]), (0, vec![])]
        {
            ports.write(offset, &data);
        }
        assert_eq!(*requests.lock().expect("no panics"), []);
        ports.write(0, &[5 << 2 | 0x20]);
        ports.write(1, &[1]);
        assert_eq!(*requests.lock().expect("no panics"), [PowerRequest::Off, PowerRequest::Reset]);
        let mut status = [0xff];
        ports.read(0, &mut status);
        assert_eq!(status, [0]);
    }
}
