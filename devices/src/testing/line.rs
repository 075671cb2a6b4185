//! An interrupt line that a test can wait for.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::TEST_TIMEOUT;
use crate::irq::Interrupt;

/// Counts interrupts and wakes the threads that wait for one.
#[derive(Debug, Default)]
pub struct Line {
    count: Mutex<u64>,
    raised: Condvar,
}

impl Line {
    /// The number of interrupts so far.
    pub fn count(&self) -> u64 {
        *self.count.lock().unwrap()
    }

    /// Waits until more than `seen` interrupts have come.
    pub fn wait_past(&self, seen: u64) {
        let count = self.count.lock().unwrap();
        let (count, timeout) = self.raised.wait_timeout_while(count, TEST_TIMEOUT, |count| *count <= seen).unwrap();
        assert!(!timeout.timed_out(), "no interrupt within {TEST_TIMEOUT:?}: {} so far", *count);
    }
}

impl Interrupt for Arc<Line> {
    fn trigger(&self) -> io::Result<()> {
        *self.count.lock().unwrap() += 1;
        self.raised.notify_all();
        Ok(())
    }
}
