//! Interrupt lines (irqfd) and doorbells (ioeventfd): both ways between guest and devices without user space.

use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use super::super::{Doorbell, HvError};
use super::failed;

/// A new eventfd that raises an edge on IOAPIC pin `gsi` (KVM_IRQFD, api.rst 4.75).
pub(super) fn line(vm: &VmFd, gsi: u32) -> Result<EventFd, HvError> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|source| HvError { operation: "creating an eventfd", source })?;
    vm.register_irqfd(&event, gsi).map_err(failed("connecting an interrupt line (KVM_IRQFD)"))?;
    Ok(event)
}

/// KVM_IOEVENTFD (api.rst 4.59) with a 4-byte data match.
pub(super) fn ring(vm: &VmFd, doorbell: Doorbell, event: &EventFd) -> Result<(), HvError> {
    let Doorbell::Mmio { address, value } = doorbell;
    vm.register_ioevent(event, &IoEventAddress::Mmio(address), value)
        .map_err(failed("connecting a queue notification (KVM_IOEVENTFD)"))
}
