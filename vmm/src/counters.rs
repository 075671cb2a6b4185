//! Counts of the machine's exits. vCPU threads write them without locks; any thread may read them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of exits to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// An `in` instruction.
    PioIn,
    /// An `out` instruction.
    PioOut,
    /// A load from a device.
    MmioRead,
    /// A store to a device.
    MmioWrite,
    /// A signal, such as for pause and stop.
    Interrupted,
    /// Any other exit; these usually end the machine.
    Other,
}

const KINDS: usize = 6;

/// Exits of one vCPU, on a cache line of their own. The vCPU's thread is the only writer.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct VcpuCounters([AtomicU64; KINDS]);

impl VcpuCounters {
    /// Counts one exit.
    pub fn count(&self, kind: ExitKind) {
        let counter = &self.0[kind as usize];
        // A load and a store: there is one writer, and a locked instruction would cost more than the rest.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Counters of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Exits to user space, summed over all vCPUs.
    pub exits: ExitCounts,
}

/// Exits to user space by kind. Exits that KVM handles itself are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// `in` instructions.
    pub pio_in: u64,
    /// `out` instructions.
    pub pio_out: u64,
    /// Loads from devices.
    pub mmio_read: u64,
    /// Stores to devices.
    pub mmio_write: u64,
    /// Exits caused by a signal.
    pub interrupted: u64,
    /// All other exits.
    pub other: u64,
}

impl ExitCounts {
    /// The sum over all vCPUs.
    pub fn sum<'a>(vcpus: impl IntoIterator<Item = &'a VcpuCounters>) -> Self {
        let mut sums = [0; KINDS];
        for vcpu in vcpus {
            for (sum, counter) in sums.iter_mut().zip(&vcpu.0) {
                *sum += counter.load(Ordering::Relaxed);
            }
        }
        let [pio_in, pio_out, mmio_read, mmio_write, interrupted, other] = sums;
        Self { pio_in, pio_out, mmio_read, mmio_write, interrupted, other }
    }

    /// Exits of all kinds.
    pub fn total(&self) -> u64 {
        self.pio_in + self.pio_out + self.mmio_read + self.mmio_write + self.interrupted + self.other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_of_all_vcpus_are_summed_by_kind() {
        let vcpus = [VcpuCounters::default(), VcpuCounters::default()];
        for (kind, times) in [(ExitKind::PioOut, 3), (ExitKind::Other, 1), (ExitKind::MmioRead, 2)] {
            for vcpu in &vcpus {
                (0..times).for_each(|_| vcpu.count(kind));
            }
        }
        let sum = ExitCounts::sum(&vcpus);
        assert_eq!(sum, ExitCounts { pio_out: 6, other: 2, mmio_read: 4, ..Default::default() });
        assert_eq!(sum.total(), 12);
    }
}
