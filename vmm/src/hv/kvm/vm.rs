//! A KVM virtual machine: descriptor, interrupt controller, memory, vCPUs. Used by the builder's thread.

#![expect(unsafe_code, reason = "kvm-ioctls does not lend its descriptors")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use hutch_devices::GuestRam;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::super::{HvError, Ioeventfd, Vcpu, Vm};
use super::error::failed;
use super::vcpu::KvmVcpu;
use super::{async_teardown, irq, slots};
use crate::arch::x86_64::layout;
use crate::arch::EntryState;

/// An open VM descriptor, with the data for creating vCPUs.
pub struct KvmVm {
    fd: VmFd,
    /// KVM_GET_SUPPORTED_CPUID: the same for every vCPU, queried once.
    cpuid: CpuId,
    ram: Option<GuestRam>,
    /// A ring that refers to the VM, too, if the teardown will be deferred.
    teardown: Option<OwnedFd>,
}

impl KvmVm {
    /// KVM_CREATE_VM with local APICs and IOAPIC in the kernel. KVM's model includes PICs, which hutch describes to no
    /// guest. There is no PIT: the guest's timer is in its local APIC.
    pub(super) fn new(kvm: &Kvm) -> Result<Self, HvError> {
        let fd = kvm.create_vm().map_err(failed("creating a virtual machine (KVM_CREATE_VM)"))?;
        // Intel's processors without "unrestricted guest" need three pages (api.rst 4.40), outside of memory slots
        // and below 4 GiB.
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("creating the interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { fd, cpuid, ram: None, teardown: None })
    }
}

impl Vm for KvmVm {
    fn map_ram(&mut self, ram: &GuestRam) -> Result<(), HvError> {
        slots::map(&self.fd, ram)?;
        self.ram = Some(ram.clone());
        Ok(())
    }

    fn register_irqfd(&self, gsi: u32) -> Result<EventFd, HvError> {
        irq::register_irqfd(&self.fd, gsi)
    }

    fn register_ioeventfd(&self, ioeventfd: Ioeventfd, event: &EventFd) -> Result<(), HvError> {
        irq::register_ioeventfd(&self.fd, ioeventfd, event)
    }

    fn create_vcpu(&self, index: u32, count: u32, entry: Option<&EntryState>) -> Result<Box<dyn Vcpu>, HvError> {
        let fd = self.fd.create_vcpu(u64::from(index)).map_err(failed("creating a vCPU (KVM_CREATE_VCPU)"))?;
        let vcpu = KvmVcpu::new(fd, self.fd.run_size(), self.ram.clone())?;
        vcpu.set_up(&self.cpuid, index, count, entry)?;
        if index > 0 {
            vcpu.announce()?;
        }
        Ok(Box::new(vcpu))
    }

    fn prepare_deferred_teardown(&mut self) {
        // SAFETY: the descriptor is the machine's own and open as long as `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) };
        match async_teardown::hold_open(fd) {
            Ok(ring) => self.teardown = Some(ring),
            Err(error) => log::debug!("the exit of the process waits for the VM's teardown: {error}"),
        }
    }
}
