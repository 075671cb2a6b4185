//! The machine inside a VMM process: what the control server needs of it, and hutch's own.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, HOST_PORT};
use hutch_vmm::config::{
    BlockConfig, ConsoleConfig, ConsoleLevel, ConsoleOutput, MemoryBacking, MemoryConfig, NetConfig, ShareConfig,
    TapSource, VsockConfig, GROWTH_STEP_MIB, GROWTH_THRESHOLD_MIB,
};
use hutch_vmm::confine::process::{confine_process, harden_process};
use hutch_vmm::confine::seccomp::Kind;
use hutch_vmm::footprint::{drop_program_pages, ProgramPages};
use hutch_vmm::{BlockSlot, Confinement, Machine, MachineConfig, MachineExit, MemHandle};

use crate::backend::{BackendError, BackendResult, BlockDevice, VmReply, VmRequest, VmSpec, VmState};
use crate::spec::Jail;
use crate::sync;
use hutch_agent_proto::error_chain;

/// The guest's vsock address, which is local to its machine.
const GUEST_CID: u64 = 3;
/// Slice in which a thread waits for the machine's end. A pause may have to wait for one.
const WATCH: Duration = Duration::from_millis(100);
/// Size of a huge page, MiB.
const HUGE_PAGE_MIB: u64 = 2;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEnd {
    /// Text for people.
    pub reason: String,
    /// The end was asked for.
    pub expected: bool,
}

/// A started machine, as the control server uses it, from several threads at once.
pub trait GuestMachine: Send + Sync {
    /// Carries out a request. The server itself handles [`VmRequest::Start`] and [`VmRequest::ExpectEnd`].
    ///
    /// # Errors
    /// [`BackendError::Timeout`]; [`BackendError::Lost`] with the reason if the machine has ended; otherwise a refusal.
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply>;

    /// Opens a connection to a vsock port of the guest.
    ///
    /// # Errors
    /// `TimedOut`, `ConnectionRefused`.
    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream>;

    /// Waits for the machine's end.
    fn wait_end(&self) -> MachineEnd;
}

/// Opens a connection to a port of the guest.
type Connect = dyn Fn(u32, Duration) -> io::Result<UnixStream> + Send + Sync;

/// hutch's own machine.
pub struct KvmMachine {
    machine: RwLock<Machine>,
    connect: Box<Connect>,
    slots: Mutex<Vec<Slot>>,
    /// Memory that can be plugged in; `None` if the machine cannot grow.
    memory: Option<MemHandle>,
    /// Memory that the guest's kernel boots with, MiB.
    boot_mib: u64,
    phase: Arc<(Mutex<Phase>, Condvar)>,
}

/// A drive slot and what is in it.
struct Slot {
    slot: BlockSlot,
    disk: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Phase {
    ready: bool,
    paused: bool,
    ended: Option<String>,
}

impl KvmMachine {
    /// Builds and starts the machine.
    ///
    /// # Errors
    /// [`BackendError::Refused`] with the machine monitor's error.
    pub fn launch(spec: &VmSpec) -> BackendResult<Self> {
        let refused = |e: &dyn std::error::Error| BackendError::Refused(error_chain(e));
        let config = machine_config(spec)?;
        if spec.jail.is_on() {
            harden_process().map_err(|e| BackendError::system("harden the machine's process", e))?;
        }
        if spec.mlock {
            lock_memory()?;
        }
        let mut machine = Machine::build(&config).map_err(|e| refused(&e))?;
        let vsock = machine.vsock().ok_or_else(|| BackendError::Refused("the machine has no vsock device".into()))?;
        // Before the start, so that the agent's report cannot come too early.
        let reports = vsock.listen(HOST_PORT).map_err(|e| BackendError::system("listen for the guest's agent", e))?;
        drop_program_pages(ProgramPages::DataAndCode);
        machine.start().map_err(|e| refused(&e))?;
        let slots = machine.block_slots().iter().map(|slot| Slot { slot: slot.clone(), disk: None }).collect();
        let phase = Arc::default();
        watch_reports(reports, &phase)?;
        let connect = Box::new(move |port, timeout| vsock.connect(port, timeout));
        let (memory, boot_mib) = (machine.memory(), machine.boot_memory_mib());
        let slots = Mutex::new(slots);
        Ok(Self { machine: RwLock::new(machine), connect, slots, memory, boot_mib, phase })
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        sync::lock(&self.slots)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        sync::lock(&self.phase.0)
    }
}

/// Notes the agent's report. The connection itself is not used: the host opens sessions.
fn watch_reports(reports: Receiver<UnixStream>, phase: &Arc<(Mutex<Phase>, Condvar)>) -> BackendResult<()> {
    let phase = Arc::clone(phase);
    let watch = move || {
        // Kept until the machine is gone: the agent may take a closed connection for a host that went away.
        let mut kept = Vec::new();
        while let Ok(report) = reports.recv() {
            kept.truncate(7);
            kept.push(report);
            sync::lock(&phase.0).ready = true;
            phase.1.notify_all();
        }
    };
    let thread = std::thread::Builder::new().name("agent-report".into()).spawn(watch);
    thread.map(drop).map_err(|e| BackendError::system("start a thread", e))
}

impl GuestMachine for KvmMachine {
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply> {
        match request {
            VmRequest::WaitReady { timeout } => self.wait_ready(timeout)?,
            VmRequest::State => {
                let paused = self.phase().paused;
                return Ok(VmReply::State(if paused { VmState::Paused } else { VmState::Running }));
            }
            VmRequest::Pause => self.pause()?,
            VmRequest::Resume => self.resume()?,
            VmRequest::PlugBlock(device) => self.plug_block(&device)?,
            VmRequest::Unplug { id } => self.unplug(&id),
            VmRequest::SetVcpus(count) => self.set_vcpus(count)?,
            VmRequest::SetMemory { mib } => return self.set_memory(mib).map(VmReply::Memory),
            VmRequest::Start(_) | VmRequest::ExpectEnd(_) => {
                return Err(BackendError::Unsupported("this request inside of a machine"));
            }
        }
        Ok(VmReply::Done)
    }

    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        (self.connect)(port, timeout)
    }

    fn wait_end(&self) -> MachineEnd {
        let exit = loop {
            // In slices: a pause needs the machine for itself.
            let machine = sync::read(&self.machine);
            if let Some(exit) = machine.wait(Some(WATCH)) {
                break exit;
            }
        };
        let mut reason = exit.to_string();
        if exit == MachineExit::GuestPanic {
            let machine = sync::read(&self.machine);
            let tail = machine.console_tail(50);
            if let Some(line) = tail.iter().find(|line| line.contains("Kernel panic")) {
                reason.push_str(&format!(": {}", crate::agent_client::printable(line, 200)));
            }
        }
        self.phase().ended = Some(reason.clone());
        self.phase.1.notify_all();
        MachineEnd { reason, expected: exit == MachineExit::Stopped }
    }
}

impl KvmMachine {
    fn wait_ready(&self, timeout: Duration) -> BackendResult<()> {
        let deadline = Deadline::after(timeout);
        let mut phase = self.phase();
        loop {
            if let Some(reason) = &phase.ended {
                return Err(BackendError::Lost(reason.clone()));
            }
            if phase.ready {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BackendError::Timeout { after: timeout });
            }
            phase = self.phase.1.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pause(&self) -> BackendResult<()> {
        if self.phase().paused {
            return Ok(());
        }
        let mut machine = sync::write(&self.machine);
        machine.pause().map_err(|e| BackendError::Refused(error_chain(&e)))?;
        self.phase().paused = true;
        Ok(())
    }

    fn resume(&self) -> BackendResult<()> {
        if !self.phase().paused {
            return Ok(());
        }
        let mut machine = sync::write(&self.machine);
        machine.resume().map_err(|e| BackendError::Refused(error_chain(&e)))?;
        self.phase().paused = false;
        Ok(())
    }

    fn plug_block(&self, device: &BlockDevice) -> BackendResult<()> {
        let mut slots = self.slots();
        let count = slots.len();
        // The disk may be there already, from a call that was killed before it saw the reply.
        let place = slots.iter().position(|slot| slot.disk.as_ref() == Some(&device.id));
        let place = place.or_else(|| slots.iter().position(|slot| slot.disk.is_none()));
        let slot = place.and_then(|place| slots.get_mut(place)).ok_or_else(|| {
            BackendError::Refused(format!("all {count} drive slots of the machine are taken (hypervisor.block_slots)"))
        })?;
        slot.slot.eject();
        slot.disk = None;
        let inserted = slot.slot.insert(&device.path, device.read_only, &device.id);
        inserted.map_err(|e| BackendError::Refused(error_chain(&e)))?;
        slot.disk = Some(device.id.clone());
        Ok(())
    }

    fn unplug(&self, id: &str) {
        for slot in self.slots().iter_mut().filter(|slot| slot.disk.as_deref() == Some(id)) {
            slot.slot.eject();
            slot.disk = None;
        }
    }

    fn set_vcpus(&self, count: u32) -> BackendResult<()> {
        let machine = sync::read(&self.machine);
        machine.ensure_vcpus(count).map_err(|e| BackendError::Refused(error_chain(&e)))
    }

    fn set_memory(&self, mib: u64) -> BackendResult<u64> {
        let more = mib.saturating_sub(self.boot_mib).next_multiple_of(GROWTH_STEP_MIB);
        match &self.memory {
            Some(memory) => Ok(memory.request(more << 20)),
            None if more == 0 => Ok(0),
            None => Err(BackendError::Unsupported("changing the memory of a machine that was not made for it")),
        }
    }
}

/// Keeps all memory of this process, and with it the guest's, from being swapped out once it is used. Set before the
/// guest's memory is made.
fn lock_memory() -> BackendResult<()> {
    use nix::sys::mman::{mlockall, MlockAllFlags};
    // Without ONFAULT the whole guest memory would be allocated at once; memory_prealloc is for that.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
        .map_err(|e| BackendError::system("lock memory (hypervisor.mlock; see RLIMIT_MEMLOCK)", e.into()))
}

/// Translates the pod API's machine to a configuration of the machine monitor.
fn machine_config(spec: &VmSpec) -> BackendResult<MachineConfig> {
    let mut config = MachineConfig::new(&spec.name, &spec.kernel);
    config.vcpus = spec.vcpus.max(1);
    config.max_vcpus = spec.max_vcpus;
    config.memory = MemoryConfig {
        backing: if spec.huge_pages {
            MemoryBacking::Hugetlb { page_mib: HUGE_PAGE_MIB }
        } else {
            MemoryBacking::Anonymous
        },
        prefault: spec.memory_prealloc,
        ..MemoryConfig::anonymous(spec.memory_mib)
    };
    if spec.max_memory_mib > 0 {
        let memory = &mut config.memory;
        memory.grow_beyond(GROWTH_THRESHOLD_MIB);
        let more = spec.max_memory_mib.saturating_sub(memory.size_mib);
        memory.pluggable_mib = memory.pluggable_mib.max(more / GROWTH_STEP_MIB * GROWTH_STEP_MIB);
    }
    config.initrd.clone_from(&spec.initrd);
    config.cmdline.clone_from(&spec.kernel_parameters);
    config.console = ConsoleConfig {
        output: spec.console.clone().map_or(ConsoleOutput::Ring, ConsoleOutput::File),
        level: if spec.debug { ConsoleLevel::Verbose } else { ConsoleLevel::Quiet },
    };
    if let Some(image) = &spec.image {
        config.blocks.push(BlockConfig { id: "image".into(), path: image.clone(), read_only: true, serial: None });
        config.cmdline.splice(0..0, ["root=/dev/vda".to_owned(), "ro".to_owned()]);
    }
    let share = |(index, share): (usize, &crate::backend::Share)| ShareConfig {
        id: format!("share{index}"),
        tag: share.tag.clone(),
        path: share.path.clone(),
        read_only: share.read_only,
        only: None,
    };
    config.shares = spec.shares.iter().enumerate().map(share).collect();
    for net in &spec.nets {
        config.nets.push(NetConfig {
            id: net.id.clone(),
            tap: TapSource::Name(net.tap.clone()),
            mac: parse_mac(&net.mac)?,
            mtu: u16::try_from(net.mtu).ok().filter(|mtu| *mtu > 0),
        });
    }
    config.block_slots = spec.block_slots;
    config.vsock = Some(VsockConfig { guest_cid: GUEST_CID });
    config.rng = true;
    config.confinement = confinement(spec.jail);
    Ok(config)
}

/// What confines a machine in a process of its own.
pub(crate) fn confinement(jail: Jail) -> Confinement {
    match jail {
        Jail::On => Confinement::Process,
        Jail::Off => Confinement::None,
    }
}

/// Confines this process as [`KvmMachine::launch`] does, for another kind of machine.
///
/// # Errors
/// The kernel refused.
pub fn confine_machine_process(jail: Jail) -> BackendResult<()> {
    match jail {
        Jail::On => confine_process(Kind::Owner).map_err(|e| BackendError::system("confine the machine's process", e)),
        Jail::Off => Ok(()),
    }
}

fn parse_mac(text: &str) -> BackendResult<[u8; 6]> {
    let bad = || BackendError::Refused(format!("{text:?} is not a MAC address"));
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().ok_or_else(bad)?, 16).map_err(|_| bad())?;
    }
    match parts.next() {
        None => Ok(mac),
        Some(_) => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{NetDevice, Share};

    /// In a process of its own: the others' memory stays as it is.
    #[test]
    fn memory_is_locked_when_it_is_used() {
        let mut command = std::process::Command::new("/proc/self/exe");
        let inner = "vm_host::machine::tests::inside_a_process_of_its_own";
        let output = command.args([inner, "--exact", "--ignored", "--nocapture"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("checked inside"), "{text}");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside_a_process_of_its_own() {
        // Few may lock more than that, and mapping fails then.
        let memory = match lock_memory() {
            Ok(()) => vec![1_u8; 4 << 20],
            Err(error) => return println!("checked inside: {error}"),
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kib * 1024 >= memory.len(), "{line}");
        println!("checked inside");
    }

    #[test]
    fn p_181_the_most_vcpus_of_a_pod_are_the_most_of_a_machine() {
        let with = |vcpus| VmSpec {
            kernel: "/k".into(),
            initrd: Some("/i".into()),
            memory_mib: 64,
            vcpus,
            ..VmSpec::default()
        };
        let most = crate::spec::PLATFORM_MAX_VCPUS;
        machine_config(&with(most)).unwrap().check().unwrap();
        machine_config(&with(most + 1)).unwrap().check().unwrap_err();
    }

    #[test]
    fn the_jail_of_a_machine_is_that_of_its_configuration() {
        let with =
            |text: &str| machine_config(&VmSpec { jail: serde_json::from_str(text).unwrap(), ..VmSpec::default() });
        assert_eq!(with("\"on\"").unwrap().confinement, Confinement::Process);
        assert_eq!(with("\"off\"").unwrap().confinement, Confinement::None);
        assert_eq!(machine_config(&VmSpec::default()).unwrap().confinement, Confinement::Process);
    }

    #[test]
    fn p_182_the_machine_gets_configured_parameters_last() {
        let spec = VmSpec {
            kernel: "/k".into(),
            image: Some("/d".into()),
            kernel_parameters: vec!["ro=no".into(), "quiet".into()],
            memory_mib: 64,
            vcpus: 2,
            block_slots: 3,
            shares: vec![Share { tag: "hutchShared".into(), path: "/s".into(), read_only: false }],
            nets: vec![NetDevice { id: "net0".into(), tap: "t".into(), mac: "02:00:00:00:00:0a".into(), mtu: 1400 }],
            ..VmSpec::default()
        };
        let config = machine_config(&spec).unwrap();
        assert_eq!(config.cmdline, ["root=/dev/vda", "ro", "ro=no", "quiet"]);
        assert_eq!((config.vcpus, config.memory.size_mib, config.block_slots), (2, 64, 3));
        assert_eq!((config.nets[0].mac, config.nets[0].mtu), ([2, 0, 0, 0, 0, 10], Some(1400)));
        assert_eq!((config.shares[0].tag.as_str(), config.blocks[0].read_only), ("hutchShared", true));
        config.check().unwrap();
        for mac in ["", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:00:00"] {
            assert!(parse_mac(mac).is_err(), "{mac}");
        }
    }
}
