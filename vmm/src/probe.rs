//! Finds out whether this host's KVM can run Linux. Used by `hutch doctor`, and before a machine is built.
//!
//! Some sandboxes offer a `/dev/kvm` without hardware behind it that emulates guests instruction by instruction, and
//! knows few instructions. It answers every query like KVM. The processor's flags are a first test; running an
//! instruction that every Linux uses is the proof.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::arch::EntryState;
use crate::boot::linux64::{self, BootInfo};
use crate::hv::kvm::{KvmHypervisor, KVM_DEVICE};
use crate::hv::{Hypervisor, VmExit};
use crate::vcpu::handle::{self, Kick};

/// KVM_GET_API_VERSION of every Linux since 2007.
const API_VERSION: i32 = 12;
/// A processor needs a microsecond for the test; an emulator has this long.
const TEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Address of the test's code, above the page tables.
const TEST_CODE: u64 = 0x8000;
const TEST_MEMORY: usize = 0x1_0000;
/// I/O port for the test's result.
const TEST_PORT: u8 = 0xe9;

/// `lock cmpxchg16b` on a zero at address 0x7000, which must succeed; then `out` with ZF.
#[rustfmt::skip]
const TEST: [u8; 16] = [
    0xbf, 0x00, 0x70, 0x00, 0x00,       // mov edi, 0x7000
    0xf0, 0x48, 0x0f, 0xc7, 0x0f,       // lock cmpxchg16b [rdi]
    0x0f, 0x94, 0xc0,                   // sete al
    0xe6, TEST_PORT,                    // out TEST_PORT, al
    0xf4,                               // hlt
];

/// How well this host's KVM can run guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmSupport {
    /// KVM runs guests on the processor.
    Hardware,
    /// KVM emulates a processor, and too little of it for Linux.
    EmulatedOnly,
    /// The host has no `/dev/kvm`.
    Absent,
    /// The process has no permission to open `/dev/kvm`.
    Denied,
    /// Opening `/dev/kvm` failed for another reason.
    Unopenable(String),
    /// `/dev/kvm` answers with an API version other than 12.
    WrongVersion(i32),
    /// KVM lacks a capability that hutch needs.
    Lacks(&'static str),
    /// KVM could not create a machine.
    Broken(String),
}

impl KvmSupport {
    /// Whether Linux guests run.
    pub fn is_usable(&self) -> bool {
        *self == Self::Hardware
    }

    /// Advice for the user; empty for [`Self::Hardware`].
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Hardware => "",
            Self::EmulatedOnly => {
                "use a host, or a virtual machine with nested virtualisation, whose processor flags show vmx or svm"
            }
            Self::Absent => {
                "load kvm_intel or kvm_amd, switch on virtualisation in the firmware (or nested virtualisation, in a \
                 virtual machine), and give a container the device"
            }
            Self::Denied => "run as root, or as a member of the group that /dev/kvm belongs to (usually kvm)",
            Self::Unopenable(_) => "check /dev/kvm; another hypervisor may be using the processor",
            Self::WrongVersion(_) => "use a host with Linux' own KVM",
            Self::Lacks(_) => "use a host with a newer Linux",
            Self::Broken(_) => "see the host's kernel log for why KVM does not work",
        }
    }
}

impl fmt::Display for KvmSupport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware => write!(f, "KVM runs guests on the processor"),
            Self::EmulatedOnly => write!(f, "this host's KVM only emulates a processor, too little of it for Linux"),
            Self::Absent => write!(f, "there is no {KVM_DEVICE}"),
            Self::Denied => write!(f, "no permission to use {KVM_DEVICE}"),
            Self::Unopenable(why) => write!(f, "cannot open {KVM_DEVICE}: {why}"),
            Self::WrongVersion(version) => {
                write!(f, "{KVM_DEVICE} answers with API version {version}, not with {API_VERSION}")
            }
            Self::Lacks(what) => write!(f, "this host's KVM lacks {what}"),
            Self::Broken(why) => write!(f, "KVM cannot create a machine: {why}"),
        }
    }
}

/// The full probe: runs a few instructions in a guest. Takes some milliseconds.
pub fn probe() -> KvmSupport {
    let hypervisor = match open() {
        Ok(hypervisor) => hypervisor,
        Err(support) => return support,
    };
    if let Some(missing) = hypervisor.missing_capability() {
        return KvmSupport::Lacks(missing);
    }
    test(&hypervisor)
}

/// The probe before a machine is built. Where the processor's flags show hardware support, nothing needs a test: KVM then
/// uses the processor.
pub(crate) fn quick() -> (Option<KvmHypervisor>, KvmSupport) {
    match open() {
        Err(support) => (None, support),
        Ok(hypervisor) if processor_virtualises() => (Some(hypervisor), KvmSupport::Hardware),
        Ok(hypervisor) => {
            let support = test(&hypervisor);
            (Some(hypervisor), support)
        }
    }
}

fn open() -> Result<KvmHypervisor, KvmSupport> {
    let hypervisor = KvmHypervisor::open().map_err(|error| unopenable(&error))?;
    match hypervisor.api_version() {
        API_VERSION => Ok(hypervisor),
        other => Err(KvmSupport::WrongVersion(other)),
    }
}

fn unopenable(error: &io::Error) -> KvmSupport {
    match (error.kind(), error.raw_os_error()) {
        // ENODEV, ENXIO: a node without a driver behind it.
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => KvmSupport::Absent,
        (io::ErrorKind::PermissionDenied, _) => KvmSupport::Denied,
        _ => KvmSupport::Unopenable(error.to_string()),
    }
}

/// Whether CPUID has the flag for VMX or SVM.
#[expect(unsafe_code, reason = "the CPUID instruction")]
fn processor_virtualises() -> bool {
    // Safe in newer versions of the standard library.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has CPUID with these leaves.
    let (basic, extended) = unsafe { (std::arch::x86_64::__cpuid(1), std::arch::x86_64::__cpuid(0x8000_0001)) };
    basic.ecx >> 5 & 1 == 1 || extended.ecx >> 2 & 1 == 1
}

/// Runs [`TEST`] in a guest, on a thread of its own: KVM may never return.
fn test(hypervisor: &KvmHypervisor) -> KvmSupport {
    let broken = |what: &dyn fmt::Display| KvmSupport::Broken(what.to_string());
    if let Err(error) = handle::install_signal_handler() {
        return broken(&error);
    }
    let ram = match GuestMemoryMmap::from_ranges(&[(GuestAddress(0), TEST_MEMORY)]) {
        Ok(ram) => hutch_devices::GuestRam::new(ram),
        Err(error) => return broken(&error),
    };
    let info = BootInfo { map: &[], initrd: None, rsdp: None, cmdline_len: 0 };
    linux64::write(&ram, &info, None)
        .and_then(|()| ram.write_slice(&TEST, GuestAddress(TEST_CODE)))
        .expect("the test's memory holds its tables and its code");
    let created = hypervisor.create_vm().and_then(|mut vm| {
        vm.map_ram(&ram)?;
        let vcpu = vm.create_vcpu(0, 1, Some(&EntryState::Linux64 { entry: TEST_CODE }))?;
        Ok((vm, vcpu))
    });
    let (vm, mut vcpu) = match created {
        Ok(created) => created,
        Err(error) => return KvmSupport::Broken(format!("{error}: {}", error.source)),
    };
    let kick = Kick::new(vcpu.immediate_exit());
    let inside = kick.clone();
    let (sender, answer) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        let _kick_guard = inside.enter();
        let passed = matches!(
            vcpu.run(),
            Ok(VmExit::PioOut { port, data: [1], .. }) if port == u16::from(TEST_PORT)
        );
        // The receiver is gone if it timed out.
        let _ = sender.send(passed);
        drop((vcpu, vm));
    });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return broken(&error),
    };
    let passed = answer.recv_timeout(TEST_TIMEOUT).unwrap_or_else(|_| {
        kick.kick();
        false
    });
    // Leaves a thread behind that does not even react to the kick: joining it could take for ever.
    if passed || answer.recv_timeout(TEST_TIMEOUT) != Err(mpsc::RecvTimeoutError::Timeout) {
        let _ = thread.join();
    }
    if passed {
        KvmSupport::Hardware
    } else {
        KvmSupport::EmulatedOnly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_opening_are_distinguished() {
        let support = |errno| unopenable(&io::Error::from_raw_os_error(errno));
        assert_eq!(support(libc::ENOENT), KvmSupport::Absent);
        assert_eq!(support(libc::ENODEV), KvmSupport::Absent);
        assert_eq!(support(libc::EACCES), KvmSupport::Denied);
        assert_eq!(support(libc::EPERM), KvmSupport::Denied);
        assert!(matches!(support(libc::EBUSY), KvmSupport::Unopenable(_)));
    }

    #[test]
    fn a_file_that_is_not_kvm_has_no_api_version() {
        let hypervisor = KvmHypervisor::open_path("/dev/null".as_ref()).expect("openable");
        assert_ne!(hypervisor.api_version(), API_VERSION);
    }

    #[test]
    fn every_trouble_has_a_remedy() {
        for trouble in [
            KvmSupport::EmulatedOnly,
            KvmSupport::Absent,
            KvmSupport::Denied,
            KvmSupport::Unopenable("x".into()),
            KvmSupport::WrongVersion(1),
            KvmSupport::Lacks("x"),
            KvmSupport::Broken("x".into()),
        ] {
            assert!(!trouble.is_usable());
            assert!(!trouble.remedy().is_empty(), "{trouble}");
        }
        assert!(KvmSupport::Hardware.is_usable());
    }
}
