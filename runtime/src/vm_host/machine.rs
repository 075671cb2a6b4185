//! The machine inside a VMM process: what the control server needs of it, and hutch's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, HOST_PORT};
use hutch_vmm::config::{
    BlockConfig, ConsoleConfig, ConsoleLevel, ConsoleOutput, MemoryBacking, MemoryConfig, NetConfig, ShareCache,
    ShareConfig, SharePolicy, TapSource, VsockConfig, GROWTH_STEP_MIB, GROWTH_THRESHOLD_MIB,
};
use hutch_vmm::confine::process::{confine_process, harden_process};
use hutch_vmm::confine::report::{self, JailReport};
use hutch_vmm::confine::root::{MountNamespace, PrivateRoot, RootShare};
use hutch_vmm::confine::seccomp::Kind;
use hutch_vmm::footprint::{drop_program_pages, ProgramPages};
use hutch_vmm::{BlockSlot, Confinement, Machine, MachineConfig, MachineExit, MemHandle};

use super::slots::Slots;
use crate::backend::{BackendError, BackendResult, BlockDevice, VmReply, VmRequest, VmSpec, VmState};
use crate::spec::{CacheMode, Jail, SetIds};
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
    /// Carries out a request. The server itself handles [`VmRequest::Start`] and [`VmRequest::ExpectEnd`], and calls
    /// [`Self::plug_block`] for [`VmRequest::PlugBlock`].
    ///
    /// # Errors
    /// [`BackendError::Timeout`]; [`BackendError::Lost`] with the reason if the machine has ended; otherwise a refusal.
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply>;

    /// Plugs a disk in, whose image the caller has opened with [`hutch_vmm::open_image`]. The device's path is for
    /// messages only. One with the same id is taken out before.
    ///
    /// # Errors
    /// A refusal: no slot is free, or the image is not what a disk needs.
    fn plug_block(&self, device: &BlockDevice, image: File) -> BackendResult<()>;

    /// Opens a connection to a vsock port of the guest.
    ///
    /// # Errors
    /// `TimedOut`, `ConnectionRefused`.
    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream>;

    /// Waits for the machine's end.
    fn wait_end(&self) -> MachineEnd;

    /// The layers that confine the process, for people, if they are known.
    fn jail(&self) -> Option<String> {
        None
    }
}

/// Opens a connection to a port of the guest.
type Connect = dyn Fn(u32, Duration) -> io::Result<UnixStream> + Send + Sync;

/// hutch's own machine.
pub struct KvmMachine {
    machine: RwLock<Machine>,
    connect: Box<Connect>,
    slots: Slots<BlockSlot>,
    /// Memory that can be plugged in; `None` if the machine cannot grow.
    memory: Option<MemHandle>,
    /// Memory that the guest's kernel boots with, MiB.
    boot_mib: u64,
    phase: Arc<(Mutex<Phase>, Condvar)>,
    /// The layers that confine the process, for people.
    jail: String,
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
        let mut config = machine_config(spec)?;
        let root = if spec.jail.is_on() { private_root(spec, &mut config)? } else { None };
        if spec.jail.is_on() {
            harden_process().map_err(|e| BackendError::system("harden the machine's process", e))?;
        }
        if spec.mlock {
            lock_memory()?;
        }
        let namespaces = own_namespaces(spec);
        let mut machine = Machine::build_in(&config, root).map_err(|e| refused(&e))?;
        let vsock = machine.vsock().ok_or_else(|| BackendError::Refused("the machine has no vsock device".into()))?;
        // Before the start, so that the agent's report cannot come too early.
        let reports = vsock.listen(HOST_PORT).map_err(|e| BackendError::system("listen for the guest's agent", e))?;
        drop_program_pages(ProgramPages::DataAndCode);
        machine.start().map_err(|e| refused(&e))?;
        let slots = Slots::new(machine.block_slots().iter().cloned());
        let phase = Arc::default();
        watch_reports(reports, &phase)?;
        let connect = Box::new(move |port, timeout| vsock.connect(port, timeout));
        let (memory, boot_mib) = (machine.memory(), machine.boot_memory_mib());
        let jail = match machine.jail() {
            Some(report) => JailReport { namespaces, ..report }.to_string(),
            None => report::OFF.to_owned(),
        };
        Ok(Self { machine: RwLock::new(machine), connect, slots, memory, boot_mib, phase, jail })
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
            VmRequest::Unplug { id } => self.slots.unplug(&id),
            VmRequest::SetVcpus(count) => self.set_vcpus(count)?,
            VmRequest::SetMemory { mib } => return self.set_memory(mib).map(VmReply::Memory),
            VmRequest::MemorySize => {
                let plugged = self.memory.as_ref().map_or(0, MemHandle::plugged);
                return Ok(VmReply::Memory((self.boot_mib << 20).saturating_add(plugged)));
            }
            VmRequest::Start(_) | VmRequest::ExpectEnd(_) | VmRequest::PlugBlock(_) => {
                return Err(BackendError::Unsupported("this request inside of a machine"));
            }
        }
        Ok(VmReply::Done)
    }

    fn plug_block(&self, device: &BlockDevice, image: File) -> BackendResult<()> {
        self.slots.plug(device, image)
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

    fn jail(&self) -> Option<String> {
        Some(self.jail.clone())
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

    fn set_vcpus(&self, count: u32) -> BackendResult<()> {
        let machine = sync::read(&self.machine);
        machine.ensure_vcpus(count).map_err(|e| BackendError::Refused(error_chain(&e)))
    }

    fn set_memory(&self, mib: u64) -> BackendResult<u64> {
        let more = bytes_beyond(mib, self.boot_mib);
        match &self.memory {
            Some(memory) => Ok(memory.request(more)),
            None if more == 0 => Ok(0),
            None => Err(BackendError::Unsupported("changing the memory of a machine that was not made for it")),
        }
    }
}

/// Bytes that make a machine that booted with `boot_mib` as large as `mib`, in whole steps; as many as can be counted, if
/// they are more.
fn bytes_beyond(mib: u64, boot_mib: u64) -> u64 {
    mib.saturating_sub(boot_mib).div_ceil(GROWTH_STEP_MIB).saturating_mul(GROWTH_STEP_MIB << 20)
}

/// Number of the calling thread's network namespace.
pub(crate) fn network_namespace() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|found| found.ino())
}

/// The kinds of namespaces that this process does not share with its launcher.
fn own_namespaces(spec: &VmSpec) -> Vec<&'static str> {
    let differ = |own: Option<u64>, launcher: Option<u64>| own.zip(launcher).is_some_and(|(own, other)| own != other);
    // One call made the first three of these.
    let apart =
        differ(MountNamespace::of_this_thread().ok().map(|MountNamespace(number)| number), spec.mount_namespace);
    // The first process of its namespace.
    let alone = std::process::id() == 1;
    let offline = spec.network_namespace.is_some() && differ(network_namespace(), spec.network_namespace);
    let kinds = [("mnt", apart), ("pid", alone), ("ipc", apart), ("uts", apart), ("net", offline)];
    kinds.into_iter().filter_map(|(kind, is)| is.then_some(kind)).collect()
}

/// Prepares a root directory for this process that holds only the shares, and gives `config` their places in it. `None` if
/// the process has no mount namespace of its own.
fn private_root(spec: &VmSpec, config: &mut MachineConfig) -> BackendResult<Option<PrivateRoot>> {
    let (Some(launcher), Some(first)) = (spec.mount_namespace, spec.shares.first()) else { return Ok(None) };
    // Mounted over this process's view of the first share, in whose place it sees the share itself.
    match PrivateRoot::prepare(&first.path, &RootShare::all_of(config), MountNamespace(launcher)) {
        Ok(root) => {
            root.place_shares(config);
            Ok(Some(root))
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            log::warn!("the machine's process keeps the host's root directory: {e}");
            Ok(None)
        }
        Err(e) => Err(BackendError::system("prepare a root directory for the machine's process", e)),
    }
}

/// Keeps all memory of this process, and with it the guest's, from being swapped out once it is used. Set before the
/// guest's memory is made.
fn lock_memory() -> BackendResult<()> {
    use nix::sys::mman::{mlockall, MlockAllFlags};
    use nix::sys::resource::{setrlimit, Resource, RLIM_INFINITY};
    // The machine's threads have no CAP_IPC_LOCK, and what they map later is locked too. Without the privilege the limit
    // stays, and counts from the start.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
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
        policy: SharePolicy {
            cache: match share.cache {
                CacheMode::None => ShareCache::None,
                CacheMode::Auto => ShareCache::Auto,
                CacheMode::Always => ShareCache::Always,
            },
            strip_privileges: share.suid == SetIds::Strip,
            trusted_xattrs: share.trusted,
        },
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

/// The confinement of a machine in a process of its own.
fn confinement(jail: Jail) -> Confinement {
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
        Jail::On => {
            confine_process(Kind::Owner, None).map_err(|e| BackendError::system("confine the machine's process", e))
        }
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
    use crate::backend::NetDevice;
    use crate::backend::Share;

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
    fn a_size_beyond_all_memory_is_not_taken_for_less() {
        assert_eq!(bytes_beyond(63, 64), 0);
        assert_eq!(bytes_beyond(65, 64), GROWTH_STEP_MIB << 20);
        // Shifted as it is, the first of these is 0 bytes; rounded up, the other has no value.
        for mib in [(1 << 44) + 64, u64::MAX] {
            assert_eq!(bytes_beyond(mib, 64), u64::MAX);
        }
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
            shares: vec![Share {
                tag: "hutchShared".into(),
                path: "/s".into(),
                read_only: false,
                cache: CacheMode::Always,
                suid: SetIds::Strip,
                trusted: true,
            }],
            nets: vec![NetDevice { id: "net0".into(), tap: "t".into(), mac: "02:00:00:00:00:0a".into(), mtu: 1400 }],
            ..VmSpec::default()
        };
        let config = machine_config(&spec).unwrap();
        assert_eq!(config.cmdline, ["root=/dev/vda", "ro", "ro=no", "quiet"]);
        let policy = SharePolicy { cache: ShareCache::Always, strip_privileges: true, trusted_xattrs: true };
        assert_eq!((config.shares[0].tag.as_str(), config.shares[0].policy), ("hutchShared", policy));
        assert_eq!((config.vcpus, config.memory.size_mib, config.block_slots), (2, 64, 3));
        assert_eq!((config.nets[0].mac, config.nets[0].mtu), ([2, 0, 0, 0, 0, 10], Some(1400)));
        assert_eq!((config.shares[0].tag.as_str(), config.blocks[0].read_only), ("hutchShared", true));
        config.check().unwrap();
        for mac in ["", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:00:00"] {
            assert!(parse_mac(mac).is_err(), "{mac}");
        }
    }
}
