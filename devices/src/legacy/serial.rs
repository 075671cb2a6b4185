//! The guest's serial console: a 16550 UART that writes its output to a sink.
//!
//! vCPU threads call it. It writes to the sink byte by byte while the device is locked, so the sink must not block.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::Trigger;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::warn_limited;

/// Number of registers of a 16550.
pub const LEN: u64 = 8;

/// Counters of a serial port, which can be read at any time.
#[derive(Debug, Default)]
pub struct SerialCounters {
    written: AtomicU64,
    lost: AtomicU64,
    interrupts: AtomicU64,
}

impl SerialCounters {
    /// Bytes that reached the sink.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes that the sink did not take.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Interrupts raised.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }
}

struct Events(Arc<SerialCounters>);

impl SerialEvents for Events {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.0.written.fetch_add(1, Ordering::Relaxed);
    }

    fn tx_lost_byte(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn in_buffer_empty(&self) {}
}

struct Line {
    fd: EventFd,
    counters: Arc<SerialCounters>,
}

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.counters.interrupts.fetch_add(1, Ordering::Relaxed);
        self.fd.write(1)
    }
}

type Uart = vm_superio::Serial<Line, Events, Box<dyn io::Write + Send>>;

/// A 16550 without input.
pub struct Serial {
    uart: Mutex<Uart>,
    counters: Arc<SerialCounters>,
}

impl Serial {
    /// Writes the guest's bytes to `output`. Raises `line` when the transmitter is empty, if the guest has enabled
    /// that.
    pub fn new(line: EventFd, output: Box<dyn io::Write + Send>) -> Self {
        let counters = Arc::new(SerialCounters::default());
        let line = Line { fd: line, counters: counters.clone() };
        let uart = Uart::with_events(line, Events(counters.clone()), output);
        Self { uart: Mutex::new(uart), counters }
    }

    /// The counters, which go on counting.
    pub fn counters(&self) -> Arc<SerialCounters> {
        self.counters.clone()
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    /// Several bytes come from a string instruction. All of them go to the same register, one after the other.
    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(offset) = u8::try_from(offset) else { return };
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            if let Err(error) = uart.write(offset, *byte) {
                warn_limited!("serial console: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let mut sink = self.0.lock().unwrap();
            if sink.len() >= 4 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            sink.extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn serial() -> (Serial, Sink, EventFd) {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let sink = Sink::default();
        (Serial::new(line.try_clone().unwrap(), Box::new(sink.clone())), sink, line)
    }

    #[test]
    fn output_reaches_the_sink_and_bytes_that_it_refuses_are_counted() {
        let (serial, sink, _line) = serial();
        for byte in b"hello" {
            serial.write(DATA, &[*byte]);
        }
        assert_eq!(*sink.0.lock().unwrap(), b"hell");
        assert_eq!((serial.counters().written(), serial.counters().lost()), (4, 1));
    }

    #[test]
    fn the_transmitter_is_always_empty_and_interrupts_if_asked() {
        let (serial, _sink, line) = serial();
        let mut status = [0];
        serial.read(LINE_STATUS, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
        serial.write(DATA, b"a");
        assert!(line.read().is_err());
        serial.write(INTERRUPT_ENABLE, &[2]);
        assert_eq!(line.read().unwrap(), serial.counters().interrupts());
    }

    #[test]
    fn far_accesses_do_nothing_and_strings_are_bytes() {
        let (serial, sink, _line) = serial();
        serial.write(256, b"a");
        serial.write(DATA, b"");
        let mut data = [7; 2];
        serial.read(LINE_STATUS, &mut data);
        assert_eq!(data, [0, 0]);
        assert!(sink.0.lock().unwrap().is_empty());
        serial.write(DATA, b"ab");
        assert_eq!(*sink.0.lock().unwrap(), b"ab");
    }
}
