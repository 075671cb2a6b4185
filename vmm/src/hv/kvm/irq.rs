//! irqfds and ioeventfds: interrupts to the guest and queue notifications from it that bypass user space.

use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use super::super::{HvError, Ioeventfd};
use super::error::failed;

/// Creates an eventfd that raises an edge on IOAPIC pin `gsi` (KVM_IRQFD, api.rst 4.75).
pub(super) fn register_irqfd(vm: &VmFd, gsi: u32) -> Result<EventFd, HvError> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|source| HvError { operation: "creating an eventfd", source })?;
    vm.register_irqfd(&event, gsi).map_err(failed("connecting an interrupt (KVM_IRQFD)"))?;
    Ok(event)
}

/// Registers an ioeventfd with a 4-byte data match (KVM_IOEVENTFD, api.rst 4.59).
pub(super) fn register_ioeventfd(vm: &VmFd, ioeventfd: Ioeventfd, event: &EventFd) -> Result<(), HvError> {
    let Ioeventfd::Mmio { address, value } = ioeventfd;
    vm.register_ioevent(event, &IoEventAddress::Mmio(address), value)
        .map_err(failed("connecting a queue notification (KVM_IOEVENTFD)"))
}
