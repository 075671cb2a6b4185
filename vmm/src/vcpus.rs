//! The machine's vCPUs: the first ones are created with it, the others on demand. Used by the builder and by the owner's
//! threads.
//!
//! ```text
//!   1 … boot           created and run with the machine; the kernel brings them online at its start (`maxcpus=`)
//!   boot + 1 … most    in the guest's tables, so the kernel knows that they may come; neither vCPU nor thread
//!   ensure(n)          creates the missing ones up to n: a thread that sleeps in KVM until the guest starts its vCPU
//! ```
//!
//! A vCPU that the guest has taken offline sleeps in KVM again. It is kept: KVM cannot remove a vCPU.

use std::sync::{Arc, Mutex};

use crate::arch::EntryState;
use crate::confine::ThreadRules;
use crate::counters::{ExitCounts, VcpuCounters};
use crate::driver::StateDriver;
use crate::error::BuildError;
use crate::hv::Vm;
use crate::sync::lock;
use crate::vcpu::{thread, IoSpace};

/// Creates vCPUs with their threads and keeps their counters.
pub(crate) struct Vcpus {
    io: IoSpace,
    driver: Arc<StateDriver>,
    /// Upper limit of vCPUs over the machine's life.
    most: u32,
    /// One element per existing vCPU.
    counters: Mutex<Vec<Arc<VcpuCounters>>>,
    rules: ThreadRules,
}

impl Vcpus {
    pub(crate) fn new(io: IoSpace, driver: Arc<StateDriver>, most: u32, rules: ThreadRules) -> Self {
        Self { io, driver, most, counters: Mutex::default(), rules }
    }

    /// Creates vCPUs until there are `count`, or the upper limit. The first one begins at `entry`; none begins before the
    /// machine runs.
    pub(crate) fn ensure(&self, vm: &dyn Vm, count: u32, entry: Option<&EntryState>) -> Result<(), BuildError> {
        let mut counters = lock(&self.counters);
        for index in counters.len()..count.min(self.most) as usize {
            let index = index as u32;
            let vcpu = vm.create_vcpu(index, self.most, entry.filter(|_| index == 0))?;
            let own = Arc::new(VcpuCounters::default());
            let handle = thread::spawn(index, vcpu, self.io.clone(), own.clone(), self.driver.clone(), &self.rules)
                .map_err(BuildError::Thread)?;
            self.driver.adopt(handle);
            counters.push(own);
        }
        Ok(())
    }

    /// The counters of the existing vCPUs, by index.
    pub(crate) fn counters(&self) -> Vec<Arc<VcpuCounters>> {
        lock(&self.counters).clone()
    }

    /// Exits of all vCPUs so far.
    pub(crate) fn exits(&self) -> ExitCounts {
        ExitCounts::sum(lock(&self.counters).iter().map(Arc::as_ref))
    }
}
