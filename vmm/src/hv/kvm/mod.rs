//! The hypervisor backend on KVM. Only this folder uses `kvm-ioctls`.

mod async_teardown;
mod error;
mod irq;
mod slots;
mod vcpu;
mod vm;

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use super::{HvError, Hypervisor, Vm};
pub use vm::KvmVm;

/// The device node of KVM.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// An open `/dev/kvm`.
pub struct KvmHypervisor {
    kvm: Kvm,
}

impl KvmHypervisor {
    /// Opens `/dev/kvm`.
    pub fn open() -> io::Result<Self> {
        Self::open_path(Path::new(KVM_DEVICE))
    }

    /// Opens another node, for tests.
    #[expect(unsafe_code, reason = "hands an owned descriptor to kvm-ioctls")]
    pub fn open_path(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
        // SAFETY: the descriptor is open, has no other owner, and is given away here.
        Ok(Self { kvm: unsafe { Kvm::from_raw_fd(fd) } })
    }

    /// KVM_GET_API_VERSION: 12 on every Linux since 2.6.22, negative if the node is not KVM.
    pub fn api_version(&self) -> i32 {
        self.kvm.get_api_version()
    }

    /// The first missing capability of those that hutch needs, by its name in `linux/kvm.h`.
    pub fn missing_capability(&self) -> Option<&'static str> {
        const NEEDED: [(Cap, &str); 6] = [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ];
        NEEDED.iter().find(|(cap, _)| !self.kvm.check_extension(*cap)).map(|(_, name)| *name)
    }
}

impl Hypervisor for KvmHypervisor {
    fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    fn create_vm(&self) -> Result<Box<dyn Vm>, HvError> {
        Ok(Box::new(KvmVm::new(&self.kvm)?))
    }
}
