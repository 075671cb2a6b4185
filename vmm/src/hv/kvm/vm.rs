//! A KVM virtual machine: descriptor, interrupt controller, memory, vCPUs. Used by the builder's thread.

#![allow(unsafe_code, reason = "one: kvm-ioctls does not lend its descriptors")]

use std::os::fd::{AsRawFd, BorrowedFd};

use hutch_devices::GuestRam;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::super::{Doorbell, HvError, Vcpu, Vm};
use super::vcpu::KvmVcpu;
use super::{failed, irq, linger, slots};
use crate::arch::x86_64::layout;
use crate::arch::EntryState;

/// See the module.
pub struct KvmVm {
    fd: VmFd,
    /// What KVM can give a guest; the same for every vCPU, asked once.
    cpuid: CpuId,
    ram: Option<GuestRam>,
}

impl KvmVm {
    /// KVM_CREATE_VM with local APICs and IOAPIC in the kernel. KVM's model brings PICs along, which hutch tells no
    /// guest about; a PIT is left out: the guest's timer is in its local APIC.
    pub(super) fn new(kvm: &Kvm) -> Result<Self, HvError> {
        let fd = kvm.create_vm().map_err(failed("creating a virtual machine (KVM_CREATE_VM)"))?;
        // Three pages that Intel's processors without "unrestricted guest" need (api.rst 4.40); they must lie outside
        // of memory slots and below 4 GiB.
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("creating the interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { fd, cpuid, ram: None })
    }
}

impl Vm for KvmVm {
    fn map_ram(&mut self, ram: &GuestRam) -> Result<(), HvError> {
        slots::map(&self.fd, ram)?;
        self.ram = Some(ram.clone());
        Ok(())
    }

    fn interrupt_line(&self, gsi: u32) -> Result<EventFd, HvError> {
        irq::line(&self.fd, gsi)
    }

    fn ring(&self, doorbell: Doorbell, event: &EventFd) -> Result<(), HvError> {
        irq::ring(&self.fd, doorbell, event)
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

    fn process_ends(&self) {
        // SAFETY: the descriptor is the machine's own and open as long as `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) };
        match linger::hold(fd) {
            // The end of the process closes it.
            Ok(ring) => std::mem::forget(ring),
            Err(error) => log::debug!("the end of the process waits for that of the machine: {error}"),
        }
    }
}
