//! The machine's size follows its containers: vCPUs (P-183) and memory, up to what was configured as the most.
//!
//! What the machine is to have is on record before anybody is told; a call that is cut short leaves `resizing` set, and
//! the next call that looks at the size does it again.

use hutch_agent_proto::Request;

use crate::backend::BackendError;
use crate::error::{Error, Result};
use crate::logger;
use crate::pod::OpenPod;
use crate::spec::{memory_mib_for_all, vcpus_for_all, Resources, PLATFORM_MAX_VCPUS};
use crate::state::State;

/// vCPUs that a guest is told of unasked: each costs its boot a third of a millisecond, and above that more.
const MOST_UNASKED: u32 = 8;

impl OpenPod<'_> {
    /// Gives the machine the vCPUs and the memory that its containers may use now, and has the guest use them. Memory that
    /// it shall have no longer it gives back as far as it can.
    pub(crate) fn sync_size(&mut self) -> Result<()> {
        self.sync_size_with(None)
    }

    /// The same, with a container that may still be stopped and will not be.
    pub(crate) fn sync_size_with(&mut self, coming: Option<usize>) -> Result<()> {
        // A guest that does not answer is on its way out, and is not waited for once more.
        // Nor is one that is held: what a call has left undone is for one that comes when it runs.
        let held = self.state.state == State::Paused;
        if held || !self.live.vm_alive() || self.live.agent_lost() {
            return Ok(());
        }
        let (vcpus, more_mib) = (self.wanted_vcpus(coming), self.wanted_mib(coming));
        let first = self.config.hypervisor.vcpus;
        let Some(record) = self.live.record_mut() else { return Ok(()) };
        let plugged = (first..vcpus).collect();
        let same_cpus = !record.resizing && record.hotplugged_vcpus == plugged;
        let same_memory = !record.resizing && record.hotplugged_mib == more_mib;
        if same_cpus && same_memory {
            return Ok(());
        }
        let grows = more_mib > record.hotplugged_mib || record.resizing;
        let more_cpus = plugged.len() >= record.hotplugged_vcpus.len();
        record.hotplugged_vcpus = plugged;
        record.hotplugged_mib = more_mib;
        record.resizing = true;
        self.put_vm_record()?;
        if !same_cpus && self.live.backends.vm.capabilities().cpu_hotplug {
            self.resize_cpus(vcpus, more_cpus)?;
        }
        if !same_memory && self.grows() {
            self.resize_memory(more_mib, grows)?;
        }
        if let Some(record) = self.live.record_mut() {
            record.resizing = false;
        }
        self.put_vm_record()
    }

    fn resize_cpus(&mut self, count: u32, more: bool) -> Result<()> {
        if more {
            self.live.vm_call("set-vcpus", |vm| vm.set_vcpus(count))?;
        }
        match self.live.tell("online-cpus", Request::OnlineCpus { count }) {
            // A processor that the guest cannot do without now is no reason for a container not to stop.
            Err(Error::Backend { source: BackendError::Remote(error), .. }) if !more => {
                logger::warn!("pod {}: the guest keeps more than {count} processors: {error}", self.id);
            }
            result => result?,
        }
        if !more {
            self.live.vm_call("set-vcpus", |vm| vm.set_vcpus(count))?;
        }
        Ok(())
    }

    fn resize_memory(&mut self, more_mib: u64, grows: bool) -> Result<()> {
        let mib = self.config.hypervisor.memory_mib.saturating_add(more_mib);
        let more = self.live.vm_call("set-memory", |vm| vm.set_memory(mib))?;
        if grows {
            self.live.tell("await-memory", Request::AwaitMemory { more })?;
        }
        Ok(())
    }

    /// Bytes that come to a guest whose kernel boots with a part of the machine's memory.
    pub(crate) fn first_memory(&mut self) -> Result<u64> {
        if !self.grows() {
            return Ok(0);
        }
        let mib = self.config.hypervisor.memory_mib;
        self.live.vm_call("set-memory", |vm| vm.set_memory(mib))
    }

    /// Whether memory can be plugged into this machine.
    pub(crate) fn grows(&self) -> bool {
        self.config.hypervisor.max_memory_mib > 0 && self.live.backends.vm.capabilities().memory_hotplug
    }

    /// How many vCPUs the guest is told that there may be. Unless a number was configured, there are eight, or as many as
    /// the containers known so far ask for.
    pub(crate) fn most_vcpus(&self) -> u32 {
        if !self.live.backends.vm.capabilities().cpu_hotplug {
            return self.config.target_vcpus();
        }
        let most = self.config.hypervisor.max_vcpus.max(1);
        if most < PLATFORM_MAX_VCPUS {
            return most;
        }
        most.min(self.config.target_vcpus().max(MOST_UNASKED))
    }

    fn wanted_vcpus(&self, coming: Option<usize>) -> u32 {
        let first = self.config.hypervisor.vcpus;
        if !self.live.backends.vm.capabilities().cpu_hotplug {
            return first;
        }
        let most = self.live.record().map_or(first, |record| record.max_vcpus);
        first.saturating_add(vcpus_for_all(self.active(coming))).min(most.max(first))
    }

    fn wanted_mib(&self, coming: Option<usize>) -> u64 {
        let machine = &self.config.hypervisor;
        if !self.grows() {
            return 0;
        }
        memory_mib_for_all(self.active(coming)).min(machine.max_memory_mib.saturating_sub(machine.memory_mib))
    }

    /// Limits of the containers that are not stopped, or not for long.
    fn active(&self, coming: Option<usize>) -> impl Iterator<Item = &Resources> {
        let all = self.containers.iter().enumerate();
        let active = all.filter(move |(index, container)| !container.is_stopped() || Some(*index) == coming);
        active.map(|(_, container)| &container.config.resources)
    }
}
