//! The machine's vCPUs: the first ones are made with it, the others when they are asked for. Used by the builder and by
//! the owner's threads.
//!
//! ```text
//!   1 … boot           made and run with the machine; the kernel brings them online at its start (`maxcpus=`)
//!   boot + 1 … most    in the guest's tables, so the kernel knows that they may come; neither vCPU nor thread
//!   ensure(n)         makes what is missing up to n: a thread that sleeps in KVM until the guest starts its vCPU
//! ```
//!
//! One that the guest has taken offline sleeps in KVM again. It is kept: KVM cannot remove a vCPU.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::arch::EntryState;
use crate::builder::BuildError;
use crate::counters::{ExitCounts, VcpuCounters};
use crate::driver::StateDriver;
use crate::hv::Vm;
use crate::vcpu::{thread, IoSpace};

/// See the module.
pub(crate) struct Vcpus {
    io: IoSpace,
    driver: Arc<StateDriver>,
    /// How many there may ever be.
    most: u32,
    /// One for each that there is.
    counters: Mutex<Vec<Arc<VcpuCounters>>>,
}

impl Vcpus {
    pub(crate) fn new(io: IoSpace, driver: Arc<StateDriver>, most: u32) -> Self {
        Self { io, driver, most, counters: Mutex::default() }
    }

    /// Makes vCPUs until there are `count`, at most as many as there may be. The first one begins at `entry`; none begins
    /// before the machine runs.
    pub(crate) fn ensure(&self, vm: &dyn Vm, count: u32, entry: Option<&EntryState>) -> Result<(), BuildError> {
        let mut counters = self.lock();
        for index in counters.len()..count.min(self.most) as usize {
            let index = index as u32;
            let vcpu = vm.create_vcpu(index, self.most, entry.filter(|_| index == 0))?;
            let own = Arc::new(VcpuCounters::default());
            let handle = thread::spawn(index, vcpu, self.io.clone(), own.clone(), self.driver.clone())
                .map_err(BuildError::Thread)?;
            self.driver.adopt(handle);
            counters.push(own);
        }
        Ok(())
    }

    /// One for each vCPU that there is.
    pub(crate) fn counters(&self) -> Vec<Arc<VcpuCounters>> {
        self.lock().clone()
    }

    /// The sum of all exits.
    pub(crate) fn exits(&self) -> ExitCounts {
        ExitCounts::sum(self.lock().iter().map(Arc::as_ref))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<VcpuCounters>>> {
        self.counters.lock().expect("nothing panics while holding the counters")
    }
}
