//! A KVM vCPU. Created by the builder, then owned by its thread.
#![expect(unsafe_code, reason = "`kvm_run` is a C union, mapped a second time for the exit flag")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use hutch_devices::GuestRam;
use kvm_bindings::{
    kvm_regs, kvm_run, kvm_sregs, CpuId, Msrs, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN,
    KVM_EXIT_SYSTEM_EVENT, KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::super::exit::SystemEvent;
use super::super::{FaultContext, HvError, ImmediateExit, Vcpu, VmExit};
use super::error::failed;
use crate::arch::x86_64::{cpuid, msr};
use crate::arch::EntryState;

/// `flags` bit of an emulation failure: instruction bytes are present (linux/kvm.h).
const EMULATION_FLAG_INSTRUCTION_BYTES: u64 = 1;
/// The operation of [`KvmVcpu::run`].
const RUN: &str = "running a vCPU (KVM_RUN)";
/// Longest x86 instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;

/// A vCPU descriptor with its exit flag.
pub(super) struct KvmVcpu {
    fd: VcpuFd,
    run_size: usize,
    flag: Arc<RunFlag>,
    /// For instruction bytes in reports. Also keeps the memory mapped as long as the vCPU may run in it.
    ram: Option<GuestRam>,
}

impl KvmVcpu {
    pub(super) fn new(fd: VcpuFd, run_size: usize, ram: Option<GuestRam>) -> Result<Self, HvError> {
        let flag = RunFlag::map(&fd).map_err(|source| HvError { operation: "mapping a vCPU's exit flag", source })?;
        Ok(Self { fd, run_size, flag: Arc::new(flag), ram })
    }

    /// Sets the vCPU's identity and, with an `entry`, its registers. It does not repeat KVM's reset state where that is
    /// right already: FPU and XCR0 (initialised), LINT0 of the boot processor (ExtINT), MP state (boot processor
    /// runnable, the others waiting for INIT).
    pub(super) fn set_up(
        &self,
        supported: &CpuId,
        index: u32,
        count: u32,
        entry: Option<&EntryState>,
    ) -> Result<(), HvError> {
        if !cpuid::has_invariant_tsc(supported.as_slice()) {
            self.adopt_tsc_frequency();
        }
        // A host with an unstable TSC has no fixed frequency; the guest then uses kvmclock alone.
        let tsc_khz = self.fd.get_tsc_khz().ok();
        let entries = cpuid::guest(supported.as_slice(), &cpuid::Topology { index, count }, tsc_khz);
        let cpuid = CpuId::from_entries(&entries)
            .map_err(|_| HvError { operation: "composing CPUID", source: io::ErrorKind::InvalidData.into() })?;
        self.fd.set_cpuid2(&cpuid).map_err(failed("setting a vCPU's features (KVM_SET_CPUID2)"))?;

        let msrs = Msrs::from_entries(&msr::boot())
            .map_err(|_| HvError { operation: "composing MSRs", source: io::ErrorKind::InvalidData.into() })?;
        let done = self.fd.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
        if let Some(refused) = msrs.as_slice().get(done) {
            log::warn!("KVM does not know MSR {:#x}; the guest may run slower", refused.index);
        }

        if let Some(entry) = entry {
            let mut sregs: kvm_sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
            let mut regs = kvm_regs::default();
            entry.apply(&mut regs, &mut sregs);
            self.fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
            self.fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
        }
        Ok(())
    }

    /// Sets the vCPU's TSC frequency to the one that the host measures now. Where the TSC is not invariant, as in many
    /// virtual machines, KVM creates vCPUs with the frequency it saw when it was loaded. If the host's kernel has
    /// measured again since then, KVM wants to scale, cannot, and reads the guest's TSC as 0 for ever: each timer of
    /// the guest would fire late by the value of that TSC.
    fn adopt_tsc_frequency(&self) {
        if let Err(error) = self.fd.set_tsc_khz(0) {
            // A frequency that is right already stays.
            log::debug!("a vCPU keeps its frequency (KVM_SET_TSC_KHZ): {error}");
        }
    }

    /// Adds the vCPU's local APIC to KVM's interrupt map. KVM routes interrupts, INIT among them, by a map that it rebuilds
    /// when an APIC's state changes, but not when a vCPU is added. In a guest that has been running for a while nothing
    /// else would change it before the first INIT.
    pub(super) fn announce(&self) -> Result<(), HvError> {
        let state = self.fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        self.fd.set_lapic(&state).map_err(failed("KVM_SET_LAPIC"))
    }

    /// The guest touched memory that this process cannot access.
    fn memory_fault(&mut self) -> Result<VmExit<'static>, HvError> {
        let mut operation = RUN;
        if let Some(map) = self.ram.as_ref().and_then(GuestRam::pluggable) {
            let run = self.fd.get_kvm_run();
            if run.exit_reason == KVM_EXIT_MEMORY_FAULT {
                // SAFETY: the exit reason says that `memory_fault` is the member written.
                let address = unsafe { run.__bindgen_anon_1.memory_fault.gpa };
                if map.is_unplugged(address) {
                    return Ok(VmExit::NotPlugged(address));
                }
            } else if map.has_unplugged() {
                // KVM does not report the address (KVM_CAP_MEMORY_FAULT_INFO).
                operation = "running a vCPU, perhaps in memory that is not plugged in (KVM_RUN)";
            }
        }
        Err(HvError { operation, source: io::Error::from_raw_os_error(libc::EFAULT) })
    }

    fn instruction_at(&self, rip: u64) -> Vec<u8> {
        let Some(ram) = &self.ram else { return Vec::new() };
        let Ok(translated) = self.fd.translate_gva(rip) else { return Vec::new() };
        if translated.valid == 0 {
            return Vec::new();
        }
        let mut bytes = vec![0; MAX_INSTRUCTION];
        // Not past the page: the next page may lie elsewhere.
        let in_page = 0x1000 - (rip & 0xfff) as usize;
        bytes.truncate(in_page.min(MAX_INSTRUCTION));
        // The page may be in memory that is not plugged in.
        match ram.view().read_slice(&mut bytes, GuestAddress(translated.physical_address)) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<VmExit<'_>, HvError> {
        // Decoded below from the exchange area: kvm-ioctls' own exit lacks the item size of string I/O.
        if let Err(error) = self.fd.run() {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(VmExit::Interrupted),
                libc::EFAULT => self.memory_fault(),
                errno => Err(HvError { operation: RUN, source: io::Error::from_raw_os_error(errno) }),
            };
        }
        let run_size = self.run_size;
        let map = self.ram.as_ref().and_then(GuestRam::pluggable);
        Ok(match decode(self.fd.get_kvm_run(), run_size) {
            // KVM emulates some accesses, and takes memory that it cannot access for a device.
            VmExit::MmioRead { address, .. } | VmExit::MmioWrite { address, .. }
                if map.is_some_and(|map| map.is_unplugged(address)) =>
            {
                VmExit::NotPlugged(address)
            }
            exit => exit,
        })
    }

    fn immediate_exit(&self) -> Arc<dyn ImmediateExit> {
        self.flag.clone()
    }

    fn resumed(&mut self) {
        // EINVAL for a guest without kvmclock, which needs no report.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn fault_context(&mut self) -> FaultContext {
        let rip = self.fd.get_regs().map(|regs| regs.rip).unwrap_or(0);
        FaultContext { rip, instruction: self.instruction_at(rip) }
    }
}

/// Reads the exit from `run` (api.rst 5), which lies at the beginning of a mapping of `run_size` bytes.
fn decode(run: &mut kvm_run, run_size: usize) -> VmExit<'_> {
    let base = std::ptr::from_mut(run).cast::<u8>();
    let reason = run.exit_reason;
    let data = &mut run.__bindgen_anon_1;
    match reason {
        KVM_EXIT_IO => {
            // SAFETY: the exit reason says that `io` is the member written.
            let io = unsafe { data.io };
            let size = usize::from(io.size);
            let len = size * io.count as usize;
            let offset = io.data_offset as usize;
            assert!(offset.saturating_add(len) <= run_size, "KVM puts I/O data inside its own exchange area");
            // SAFETY: just checked to lie in the mapping, which lives and is borrowed as long as the vCPU; the data
            // is in the page after `kvm_run`, which does not overlap `run`.
            let items = unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) };
            if u32::from(io.direction) == KVM_EXIT_IO_IN {
                VmExit::PioIn { port: io.port, size, data: items }
            } else {
                VmExit::PioOut { port: io.port, size, data: items }
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: the exit reason says that `mmio` is the member written.
            let mmio = unsafe { &mut data.mmio };
            let len = (mmio.len as usize).min(mmio.data.len());
            let (address, items) = (mmio.phys_addr, &mut mmio.data[..len]);
            if mmio.is_write == 0 {
                VmExit::MmioRead { address, data: items }
            } else {
                VmExit::MmioWrite { address, data: items }
            }
        }
        KVM_EXIT_HLT => VmExit::Hlt,
        KVM_EXIT_INTR => VmExit::Interrupted,
        KVM_EXIT_SHUTDOWN => VmExit::Shutdown,
        // SAFETY: the exit reason says that `fail_entry` is the member written.
        KVM_EXIT_FAIL_ENTRY => VmExit::FailEntry(unsafe { data.fail_entry.hardware_entry_failure_reason }),
        KVM_EXIT_SYSTEM_EVENT => {
            // SAFETY: the exit reason says that `system_event` is the member written.
            VmExit::SystemEvent(match unsafe { data.system_event.type_ } {
                KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::Shutdown,
                KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
                KVM_SYSTEM_EVENT_CRASH => SystemEvent::Crash,
                other => SystemEvent::Other(other),
            })
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: the exit reason says that `internal` is written, and `emulation_failure` is another view of it. All
            // of its bytes are initialised, since KVM zeroes the area when it creates it.
            let error = unsafe { &data.emulation_failure };
            if error.suberror != KVM_INTERNAL_ERROR_EMULATION {
                return VmExit::InternalError(error.suberror);
            }
            // ndata counts 8-byte words; the flags are the first.
            if error.ndata < 3 || error.flags & EMULATION_FLAG_INSTRUCTION_BYTES == 0 {
                return VmExit::EmulationFailure(Vec::new());
            }
            // SAFETY: as above.
            let instruction = unsafe { &error.__bindgen_anon_1.__bindgen_anon_1 };
            let len = usize::from(instruction.insn_size).min(MAX_INSTRUCTION);
            VmExit::EmulationFailure(instruction.insn_bytes[..len].to_vec())
        }
        other => VmExit::Other(other),
    }
}

/// `kvm_run.immediate_exit` through a mapping of its own: other threads may set it while the vCPU's thread uses the
/// first mapping, and even when that thread is gone.
struct RunFlag {
    page: NonNull<kvm_run>,
}

// SAFETY: the only access is through an atomic.
unsafe impl Send for RunFlag {}
// SAFETY: as above.
unsafe impl Sync for RunFlag {}

impl RunFlag {
    fn map(fd: &VcpuFd) -> io::Result<Self> {
        // SAFETY: a new shared mapping of the vCPU's first page, at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<kvm_run>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { page: NonNull::new(page.cast()).expect("mmap without MAP_FIXED does not map page 0") })
    }
}

impl ImmediateExit for RunFlag {
    fn set(&self, on: bool) {
        // SAFETY: in our mapping, which lives as long as `self`; this process accesses the byte through this
        // mapping by atomics only, and through the vCPU's own mapping not at all.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) };
        flag.store(on.into(), Ordering::SeqCst);
    }
}

impl Drop for RunFlag {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no pointer into it is left.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<kvm_run>()) };
    }
}
