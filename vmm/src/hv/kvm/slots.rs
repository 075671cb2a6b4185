//! Guest memory as KVM memory slots.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes a raw address range")]

use hutch_devices::GuestRam;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemory, GuestMemoryRegion, MemoryRegionAddress};

use super::super::HvError;
use super::error::failed;

/// Registers one slot for each region of `ram`.
pub(super) fn map(vm: &VmFd, ram: &GuestRam) -> Result<(), HvError> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .expect("an mmap region has a host address at its beginning");
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is one mapping of this process and stays one: `KvmVm` keeps `ram` until its descriptor
        // is closed, and vCPUs keep it too.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(failed("giving memory to the guest (KVM_SET_USER_MEMORY_REGION)"))?;
    }
    Ok(())
}
