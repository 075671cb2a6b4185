//! The backend to the hypervisor: what the builder and the run loop need of KVM, and nothing more.
//!
//! [`kvm`] is the product, `fake` a scripted shim that lets the machine be tested without `/dev/kvm`.
//! No KVM type passes through these traits.

pub mod exit;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod kvm;
pub mod probe;

use std::io;
use std::sync::Arc;

use hutch_devices::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::EntryState;
pub use exit::{FaultContext, VmExit};

/// The hypervisor refused something.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed")]
pub struct HvError {
    /// What was asked of it.
    pub operation: &'static str,
    /// The answer of the kernel.
    #[source]
    pub source: io::Error,
}

/// Where an `ioeventfd` listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// A 32-bit MMIO write of exactly this value.
    Mmio {
        /// Guest physical address.
        address: u64,
        /// The value written.
        value: u32,
    },
}

/// Makes virtual machines.
pub trait Hypervisor {
    /// The most vCPUs one machine may have.
    fn max_vcpus(&self) -> u32;

    /// A new machine with an interrupt controller, without memory and vCPUs.
    ///
    /// # Errors
    /// The kernel's.
    fn create_vm(&self) -> Result<Box<dyn Vm>, HvError>;
}

/// One virtual machine. It keeps the guest's memory alive.
pub trait Vm: Send + Sync {
    /// Makes `ram` the guest's physical memory. Called once.
    ///
    /// # Errors
    /// The kernel's.
    fn map_ram(&mut self, ram: &GuestRam) -> Result<(), HvError>;

    /// An eventfd whose writes raise an edge on interrupt controller pin `gsi`.
    ///
    /// # Errors
    /// The kernel's.
    fn interrupt_line(&self, gsi: u32) -> Result<EventFd, HvError>;

    /// Signals `event` on the guest's write to `doorbell`, without an exit to user space.
    ///
    /// # Errors
    /// The kernel's.
    fn ring(&self, doorbell: Doorbell, event: &EventFd) -> Result<(), HvError>;

    /// vCPU `index` of `count`. With an `entry` it starts there; without, it waits for the guest to start it.
    ///
    /// # Errors
    /// The kernel's.
    fn create_vcpu(&self, index: u32, count: u32, entry: Option<&EntryState>) -> Result<Box<dyn Vcpu>, HvError>;

    /// The process is about to end with the machine in it: what that takes of the hypervisor's time need not be waited
    /// for, where this can be arranged.
    fn process_ends(&self) {}
}

/// One virtual processor, owned by its thread.
pub trait Vcpu: Send {
    /// Runs the guest until something needs user space. Input of the exit just handled is taken on the next call.
    ///
    /// # Errors
    /// The kernel's, if it is not one of the conditions that [`VmExit`] has a value for.
    fn run(&mut self) -> Result<VmExit<'_>, HvError>;

    /// The flag by which others call the vCPU back.
    fn immediate_exit(&self) -> Arc<dyn ImmediateExit>;

    /// The guest's clock stood still on purpose (KVM_KVMCLOCK_CTRL): its watchdogs should not bark.
    fn resumed(&mut self) {}

    /// Where the guest is and what it was executing, for reports.
    fn fault_context(&mut self) -> FaultContext;
}

/// A flag that makes [`Vcpu::run`] return [`VmExit::Interrupted`], at once if set beforehand. A vCPU that is inside
/// the guest additionally needs a signal to notice.
pub trait ImmediateExit: Send + Sync {
    /// Sets or clears it.
    fn set(&self, on: bool);
}
