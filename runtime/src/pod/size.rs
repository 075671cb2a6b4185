//! The machine's size follows its containers: vCPUs (P-183) and memory, up to what was configured as the most.
//!
//! The wanted size is recorded before machine and guest are asked for it. A call that is cut short leaves `resizing`
//! set, and the next call that checks the size repeats the change.

use hutch_agent_proto::Request;

use crate::backend::BackendError;
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::logger;
use crate::pod::OpenPod;
use crate::spec::{memory_mib_for_all, vcpus_for_all, Resources, PLATFORM_MAX_VCPUS};
use crate::state::State;

/// vCPUs that a guest can grow to by default. Each costs its boot a third of a millisecond, and beyond this number
/// more.
const DEFAULT_MAX_VCPUS: u32 = 8;

impl OpenPod<'_> {
    /// Gives the machine the vCPUs and the memory that its containers may use now, and makes the guest use them. The
    /// guest returns surplus memory as far as it can.
    pub(crate) fn sync_size(&mut self) -> Result<()> {
        self.sync_size_with(None)
    }

    /// As [`OpenPod::sync_size`]; counts the stopped container `starting`, which is about to start.
    pub(crate) fn sync_size_with(&mut self, starting: Option<&ContainerId>) -> Result<()> {
        // Skip a guest that stopped answering: it is being torn down. Skip a paused one too: the first call after the
        // resume repeats the change.
        let paused = self.state.state == State::Paused;
        if paused || !self.sandbox.vm_alive() || self.sandbox.agent_lost() {
            return Ok(());
        }
        let (vcpus, more_mib) = (self.wanted_vcpus(starting), self.wanted_mib(starting));
        let first = self.config.hypervisor.vcpus;
        let Some(record) = self.sandbox.record_mut() else { return Ok(()) };
        let plugged = (first..vcpus).collect();
        let same_cpus = !record.resizing && record.hotplugged_vcpus == plugged;
        let same_memory = !record.resizing && record.hotplugged_mib == more_mib;
        let wanted_mib = self.config.hypervisor.memory_mib.saturating_add(more_mib);
        if same_cpus && same_memory {
            return self.lower_memory_limit(wanted_mib);
        }
        let grows = more_mib > record.hotplugged_mib || record.resizing;
        let more_cpus = plugged.len() >= record.hotplugged_vcpus.len();
        record.hotplugged_vcpus = plugged;
        record.hotplugged_mib = more_mib;
        record.resizing = true;
        if grows && self.grows() {
            self.raise_memory_limit(wanted_mib)?;
        }
        self.put_vm_record()?;
        if !same_cpus && self.sandbox.backends.vm.capabilities().cpu_hotplug {
            self.resize_cpus(vcpus, more_cpus)?;
        }
        if !same_memory && self.grows() {
            self.resize_memory(more_mib, grows)?;
        }
        if let Some(record) = self.sandbox.record_mut() {
            record.resizing = false;
        }
        self.put_vm_record()?;
        self.lower_memory_limit(wanted_mib)
    }

    fn resize_cpus(&mut self, count: u32, more: bool) -> Result<()> {
        if more {
            self.sandbox.vm_call("set-vcpus", |vm| vm.set_vcpus(count))?;
        }
        match self.sandbox.send("online-cpus", Request::OnlineCpus { count }) {
            // A container must be able to stop even if the guest cannot give up a processor.
            Err(Error::Backend { source: BackendError::Remote(error), .. }) if !more => {
                logger::warn!("pod {}: the guest keeps more than {count} processors: {error}", self.id);
            }
            result => result?,
        }
        if !more {
            self.sandbox.vm_call("set-vcpus", |vm| vm.set_vcpus(count))?;
        }
        Ok(())
    }

    fn resize_memory(&mut self, more_mib: u64, grows: bool) -> Result<()> {
        let mib = self.config.hypervisor.memory_mib.saturating_add(more_mib);
        let more = self.sandbox.vm_call("set-memory", |vm| vm.set_memory(mib))?;
        if grows {
            self.sandbox.send("await-memory", Request::AwaitMemory { more })?;
        }
        Ok(())
    }

    /// The first memory of a guest whose kernel boots with a part of it: bytes to wait for.
    pub(crate) fn first_memory(&mut self) -> Result<u64> {
        if !self.grows() {
            return Ok(0);
        }
        let mib = self.config.hypervisor.memory_mib;
        self.sandbox.vm_call("set-memory", |vm| vm.set_memory(mib))
    }

    /// Whether memory can be plugged into this machine.
    pub(crate) fn grows(&self) -> bool {
        self.config.hypervisor.max_memory_mib > 0 && self.sandbox.backends.vm.capabilities().memory_hotplug
    }

    /// The number of vCPUs that the guest prepares for. By default eight, or more if the containers known so far ask
    /// for more.
    pub(crate) fn most_vcpus(&self) -> u32 {
        if !self.sandbox.backends.vm.capabilities().cpu_hotplug {
            return self.config.target_vcpus();
        }
        let most = self.config.hypervisor.max_vcpus.max(1);
        if most < PLATFORM_MAX_VCPUS {
            return most;
        }
        most.min(self.config.target_vcpus().max(DEFAULT_MAX_VCPUS))
    }

    fn wanted_vcpus(&self, starting: Option<&ContainerId>) -> u32 {
        let first = self.config.hypervisor.vcpus;
        if !self.sandbox.backends.vm.capabilities().cpu_hotplug {
            return first;
        }
        let most = self.sandbox.record().map_or(first, |record| record.max_vcpus);
        first.saturating_add(vcpus_for_all(self.active(starting))).min(most.max(first))
    }

    fn wanted_mib(&self, starting: Option<&ContainerId>) -> u64 {
        let machine = &self.config.hypervisor;
        if !self.grows() {
            return 0;
        }
        memory_mib_for_all(self.active(starting)).min(machine.max_memory_mib.saturating_sub(machine.memory_mib))
    }

    /// Limits of the containers that are not stopped, and of the one that is about to start.
    fn active<'a>(&'a self, starting: Option<&'a ContainerId>) -> impl Iterator<Item = &'a Resources> {
        let active = self.containers().iter().filter(move |c| !c.is_stopped() || Some(&c.id) == starting);
        active.map(|container| &container.config.resources)
    }
}
