//! The hypervisor backend: the operations of KVM that the builder and the run loop need.
//!
//! | file | contents |
//! |---|---|
//! | `mod` | the traits: [`Hypervisor`], [`Vm`], [`Vcpu`], [`ImmediateExit`] |
//! | `exit` | exits from guest mode, as plain data |
//! | `kvm/mod` | `/dev/kvm`: the hypervisor of the product |
//! | `kvm/vm`, `kvm/slots`, `kvm/irq` | the machine: interrupt controller; guest memory; irqfds and ioeventfds |
//! | `kvm/vcpu` | a vCPU: runs the guest and translates its exits |
//! | `kvm/async_teardown` | lets a process exit without waiting for the teardown of its machine |
//! | `kvm/error` | names of failed ioctls |
//! | `fake` | a scripted hypervisor that tests machines without `/dev/kvm` |
//!
//! No KVM type passes through these traits.

pub mod exit;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub(crate) mod kvm;

use std::io;
use std::sync::Arc;

use hutch_devices::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::EntryState;
pub use exit::{FaultContext, VmExit};

/// The hypervisor refused an operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed")]
pub struct HvError {
    /// The operation, with the name of its ioctl where there is one.
    pub operation: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// The guest's write that signals an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ioeventfd {
    /// A 32-bit MMIO write of exactly this value.
    Mmio {
        /// Guest physical address.
        address: u64,
        /// The value that must match.
        value: u32,
    },
}

/// Creates virtual machines.
pub trait Hypervisor {
    /// Upper limit of vCPUs per machine.
    fn max_vcpus(&self) -> u32;

    /// Creates a machine with an interrupt controller, without memory and vCPUs.
    fn create_vm(&self) -> Result<Box<dyn Vm>, HvError>;
}

/// One virtual machine. It keeps the guest's memory alive.
pub trait Vm: Send + Sync {
    /// Makes `ram` the guest's physical memory. Called once.
    fn map_ram(&mut self, ram: &GuestRam) -> Result<(), HvError>;

    /// Creates an eventfd whose writes raise an edge on interrupt controller pin `gsi`.
    fn register_irqfd(&self, gsi: u32) -> Result<EventFd, HvError>;

    /// Signals `event` on the guest's write to `ioeventfd`, without an exit to user space.
    fn register_ioeventfd(&self, ioeventfd: Ioeventfd, event: &EventFd) -> Result<(), HvError>;

    /// Creates vCPU `index` of `count`. With an `entry` it starts there; without, it waits for the guest to start it.
    fn create_vcpu(&self, index: u32, count: u32, entry: Option<&EntryState>) -> Result<Box<dyn Vcpu>, HvError>;

    /// Lets the kernel tear the VM down in the background, where possible, if the process exits with the VM open.
    fn prepare_deferred_teardown(&mut self) {}
}

/// One virtual processor, owned by its thread.
pub trait Vcpu: Send {
    /// Runs the guest until something needs user space. The next call passes the input of this exit to the guest.
    ///
    /// # Errors
    /// The kernel reported a condition for which [`VmExit`] has no value.
    fn run(&mut self) -> Result<VmExit<'_>, HvError>;

    /// The flag by which other threads make the vCPU leave the guest.
    fn immediate_exit(&self) -> Arc<dyn ImmediateExit>;

    /// Reports to the guest that its clock stood still on purpose (KVM_KVMCLOCK_CTRL), so its watchdogs stay silent.
    fn resumed(&mut self) {}

    /// The guest's instruction pointer and the instruction there, for reports.
    fn fault_context(&mut self) -> FaultContext;
}

/// A flag that makes [`Vcpu::run`] return [`VmExit::Interrupted`], at once if set beforehand. A vCPU that is inside
/// the guest additionally needs a signal to notice.
pub trait ImmediateExit: Send + Sync {
    /// Sets or clears the flag.
    fn set(&self, on: bool);
}
