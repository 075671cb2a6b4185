//! The serial console: registers of the UART, and the bytes that it prints.

use hutch_devices::bus::BusDevice;
use hutch_devices::legacy::serial::Serial;
use hutch_vmm::testing::TestConsole;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::script::Script;

/// Most characters of a line that the console keeps; some of them replace bytes that are not text.
const LINE: usize = 1024;
const LINES: usize = 256;

/// Most bytes that an input prints. More would print the same again.
const PRINTED: usize = 8 * LINE;

/// Attacks the console.
pub fn attack(data: &[u8]) {
    let mut left = PRINTED;
    let mut print = |serial: &Serial, text: &[u8]| {
        let text = text.get(..left).unwrap_or(text);
        left -= text.len();
        serial.write(0, text);
    };
    let console = TestConsole::new();
    let serial = Serial::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"), console.writer());
    let mut script = Script::new(data);
    while !script.is_done() {
        match script.u8() {
            how @ ..=0x1f => serial.read(u64::from(script.u16()), &mut [0; 9][..usize::from(how % 10)]),
            how @ 0x20..=0x3f => serial.write(u64::from(script.u16() % 9), script.bytes(usize::from(how % 10))),
            0x40..=0x4f => print(&serial, b"\nKernel panic - not syncing: "),
            _ => print(&serial, &script.string()),
        }
    }
    console.finish();
    let tail = console.tail(usize::MAX);
    assert!(tail.len() <= LINES + 1, "{} lines are kept", tail.len());
    for line in tail {
        assert!(line.chars().count() <= LINE && !line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
    }
}
