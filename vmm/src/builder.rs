//! Builds a machine, step by step. Runs on the caller's thread; the guest does not run before the machine is complete.
//!
//! 1. Check the configuration; open and parse kernel, initrd and console file.
//! 2. Open `/dev/kvm`; check that it can run Linux.
//! 3. Create the KVM machine with its interrupt controller.
//! 4. Map guest memory and hand it to KVM.
//! 5. Create devices; register irqfds and ioeventfds.
//! 6. Read kernel and initrd into memory; write command line, tables, boot data.
//! 7. Create vCPUs and their threads, parked.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use hutch_devices::legacy::{MarkPort, Serial, I8042};
use hutch_devices::virtio::mem::MemHandle;
use hutch_devices::GuestRam;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use crate::arch::x86_64::acpi::VirtioNode;
use crate::arch::x86_64::memmap::GuestRange;
use crate::arch::x86_64::{acpi, layout, memmap, mptable};
use crate::arch::EntryState;
use crate::attach::Devices;
use crate::boot::cmdline::{Cmdline, CmdlineError};
use crate::boot::initrd::Initrd;
use crate::boot::kernel::{Entry, KernelImage};
use crate::boot::linux64::{self, BootInfo};
use crate::boot::loader::Loader;
use crate::boot::pvh;
use crate::config::{ConsoleLevel, ConsoleOutput, DeviceDiscovery, MachineConfig, MemoryBacking};
use crate::confine::root::{PrivateRoot, RootShare};
use crate::confine::{Confinement, MachineThreads};
use crate::console::GuestConsole;
use crate::driver::StateDriver;
use crate::error::BuildError;
use crate::hv::kvm::KvmHypervisor;
use crate::hv::{HvError, Hypervisor, Vm};
use crate::machine::{Machine, Parts};
use crate::marks::{names, Marks};
use crate::memory;
use crate::power::{PowerPorts, PowerRequest};
use crate::probe::{self, KvmSupport};
use crate::vcpu::{IoSpace, VcpuExitReason};
use crate::vcpus::Vcpus;
use crate::virtio;

impl Machine {
    /// Checks `config` and builds the machine on `/dev/kvm`. No vCPU runs yet.
    ///
    /// # Errors
    /// The first thing that is wrong with the configuration, its files or the host.
    pub fn build(config: &MachineConfig) -> Result<Self, BuildError> {
        Self::build_in(config, None)
    }

    /// Does the same, and makes `root` the process's root directory as soon as all files and devices are open. The shares
    /// of `config` lie in `root`.
    pub fn build_in(config: &MachineConfig, root: Option<PrivateRoot>) -> Result<Self, BuildError> {
        let marks = begin();
        let (files, config) = Files::open(config)?;
        let hypervisor = open_kvm(config.allow_emulated)?;
        assemble(&hypervisor, &config, files, root, marks)
    }

    /// Like [`Self::build`], on another hypervisor.
    pub fn build_on(hypervisor: &dyn Hypervisor, config: &MachineConfig) -> Result<Self, BuildError> {
        let marks = begin();
        let (files, config) = Files::open(config)?;
        assemble(hypervisor, &config, files, None, marks)
    }
}

fn begin() -> Marks {
    let marks = Marks::default();
    marks.add(names::BUILD);
    raise_open_files();
    marks
}

/// A file server for the guest needs many descriptors; the soft limit is low only for the sake of `select`.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Does not fail within the hard limit; if it does, the old limit suffices for most guests.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn open_kvm(allow_emulated: bool) -> Result<KvmHypervisor, BuildError> {
    let (hypervisor, support) = probe::quick();
    match (hypervisor, support) {
        (Some(hypervisor), KvmSupport::Hardware) => Ok(hypervisor),
        (Some(hypervisor), KvmSupport::EmulatedOnly) if allow_emulated => Ok(hypervisor),
        (_, support) => Err(BuildError::Kvm(support)),
    }
}

/// Memory that a guest needs beside kernel and initrd where these are large, in MiB.
const WORKING_MIB: u64 = 32;

/// The host's files, opened before anything is built.
struct Files {
    kernel: KernelImage,
    initrd: Option<Initrd>,
    console: Option<GuestConsole>,
}

impl Files {
    /// Returns the files, and the configuration with enough memory for them at boot.
    fn open(config: &MachineConfig) -> Result<(Self, Cow<'_, MachineConfig>), BuildError> {
        config.check()?;
        let kernel = KernelImage::open(&config.kernel)?;
        let initrd = config.initrd.as_deref().map(Initrd::open).transpose()?;
        let mut config = Cow::Borrowed(config);
        let needs = kernel.memory_range().end().saturating_add(initrd.as_ref().map_or(0, Initrd::needs));
        let needs_mib = needs.div_ceil(1 << 20);
        if config.memory.pluggable_mib > 0 && needs_mib > config.memory.size_mib / 4 * 3 {
            config.to_mut().memory.boot_with(needs_mib + WORKING_MIB);
        }
        kernel.check_fits(config.memory.size_mib << 20)?;
        kernel.entry(config.boot)?;
        let console = GuestConsole::new(&config.console.output).map_err(|source| BuildError::Console {
            path: match &config.console.output {
                ConsoleOutput::File(path) => path.clone(),
                ConsoleOutput::Stdout => "standard output".into(),
                ConsoleOutput::Ring | ConsoleOutput::None => PathBuf::new(),
            },
            source,
        })?;
        Ok((Self { kernel, initrd, console }, config))
    }
}

fn assemble(
    hypervisor: &dyn Hypervisor,
    config: &MachineConfig,
    files: Files,
    root: Option<PrivateRoot>,
    marks: Marks,
) -> Result<Machine, BuildError> {
    let max = hypervisor.max_vcpus();
    if config.most_vcpus() > max {
        return Err(BuildError::TooManyVcpus { asked: config.most_vcpus(), max });
    }
    let mut vm = hypervisor.create_vm()?;
    marks.add(names::VM_CREATED);
    if config.deferred_teardown {
        vm.prepare_deferred_teardown();
    }
    let ram = memory::create(&config.memory)?;
    vm.map_ram(&ram)?;
    marks.add(names::MEMORY_READY);

    let driver = Arc::new(StateDriver::new(files.console.clone(), marks, config.timeouts));
    let mut threads = MachineThreads::new(config.confinement, !config.shares.is_empty());
    if let Some(console) = driver.console() {
        console.set_rules(threads.rules());
    }
    let mut devices = Devices { threads: threads.rules().threads(), ..Devices::default() };
    add_ports(&mut devices, vm.as_ref(), config, &driver)?;
    let handles = virtio::add_all(&mut devices, vm.as_ref(), &ram, config)?;
    if let Some(memory) = &handles.memory {
        watch_memory(memory, config, &driver);
    }
    driver.marks().add(names::DEVICES_READY);
    let (shares, private_root) = enter_root(config, root);
    // The threads that are made from here on do not have what the calling thread gives up.
    let shares = match config.confinement {
        Confinement::None => None,
        Confinement::Threads => Some(shares),
        Confinement::Process | Confinement::Foreground => {
            threads.reach_only(&shares);
            None
        }
    };
    threads.start(shares).map_err(BuildError::Thread)?;
    let caller = config.confinement.caller();
    if caller.is_some() {
        threads.limit_builder();
    }
    let mut images = Loader::new(&ram, config.effective_loading()).by(threads.rules());
    let entry = load(config, files, &ram, &devices, &mut images)?;
    driver.marks().add(names::KERNEL_LOADED);

    let Devices { mmio, pio, transports, .. } = devices;
    let io = IoSpace { mmio: Arc::new(mmio), pio: Arc::new(pio) };
    let vcpus = Vcpus::new(io, driver.clone(), config.most_vcpus(), threads.rules());
    if let Err(error) = vcpus.ensure(vm.as_ref(), config.vcpus, Some(&entry)) {
        // Parked threads end at once: a machine that could not be built leaves nothing behind.
        if let Err(stuck) = driver.join() {
            log::error!("{stuck}");
        }
        return Err(error);
    }
    driver.marks().watch(vcpus.counters());
    driver.marks().add(names::VCPUS_READY);
    if let Some(kind) = caller {
        // The last thread without a filter.
        threads.enter(kind);
    }
    let boot_memory_mib = config.memory.size_mib;
    Ok(Machine::new(Parts { driver, vcpus, transports, handles, images, vm, threads, private_root, boot_memory_mib }))
}

/// Makes `root` the root directory of the process, if it has one. Returns the shares with their paths from then on, and whether
/// it has.
fn enter_root(config: &MachineConfig, root: Option<PrivateRoot>) -> (Vec<RootShare>, bool) {
    let mut shares = RootShare::all_of(config);
    match root.map(PrivateRoot::enter) {
        None => {}
        Some(Ok(())) => {
            for (index, share) in shares.iter_mut().enumerate() {
                share.path = PrivateRoot::share_inside(index);
            }
            return (shares, true);
        }
        // Some places cannot be left, for example a root directory that the kernel unpacked at its boot.
        Some(Err(error)) => log::warn!("the machine's process keeps the host's root directory: {error}"),
    }
    (shares, false)
}

/// Marks the moment when the guest has plugged in all requested memory. With `plug_at_mark`, requests all of it when the
/// guest marks that it is ready.
fn watch_memory(memory: &MemHandle, config: &MachineConfig, driver: &Arc<StateDriver>) {
    let weak = Arc::downgrade(driver);
    memory.on_reached(Box::new(move || {
        if let Some(driver) = weak.upgrade() {
            driver.marks().add(names::MEMORY_PLUGGED);
        }
    }));
    if config.memory.plug_at_mark {
        let memory = memory.clone();
        driver.marks().on_ready(Box::new(move || {
            memory.request(memory.capacity());
        }));
    }
}

/// Adds serial port, power and reset registers, and the port for boot marks.
fn add_ports(
    devices: &mut Devices,
    vm: &dyn Vm,
    config: &MachineConfig,
    driver: &Arc<StateDriver>,
) -> Result<(), BuildError> {
    // Devices refer weakly to the driver: the driver's threads own the devices.
    let weak = Arc::downgrade(driver);
    let end = move |end: VcpuExitReason| {
        if let Some(driver) = weak.upgrade() {
            driver.end_by_guest(end);
        }
    };
    let reset = end.clone();
    devices.add_ports(
        layout::SLEEP_PORT,
        layout::POWER_PORT_SIZE,
        Arc::new(PowerPorts::new(Box::new(move |request| match request {
            PowerRequest::Off => end(VcpuExitReason::PowerOff),
            PowerRequest::Reset => end(VcpuExitReason::Reset),
        }))),
    );
    let i8042 = I8042::new(Box::new(move || reset(VcpuExitReason::Reset)));
    devices.add_ports(layout::I8042_PORT, layout::I8042_PORT_SIZE, Arc::new(i8042));
    let weak = Arc::downgrade(driver);
    let mark = MarkPort::new(Box::new(move |byte| {
        if let Some(driver) = weak.upgrade() {
            driver.marks().add_guest(byte);
        }
    }));
    devices.add_ports(layout::MARK_PORT, 1, Arc::new(mark));
    if let Some(console) = driver.console() {
        // A quiet guest polls; only a terminal needs the interrupt.
        let irqfd = match config.console.level {
            ConsoleLevel::Verbose => vm.register_irqfd(layout::SERIAL_GSI)?,
            ConsoleLevel::Quiet => EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|source| HvError { operation: "creating an eventfd", source })?,
        };
        let serial = Serial::new(irqfd, Box::new(console.clone()));
        devices.add_ports(layout::SERIAL_PORT, layout::SERIAL_PORT_SIZE, Arc::new(serial));
    }
    Ok(())
}

/// Brings kernel, initrd, command line, tables and boot data into memory.
fn load(
    config: &MachineConfig,
    files: Files,
    ram: &GuestRam,
    devices: &Devices,
    images: &mut Loader,
) -> Result<EntryState, BuildError> {
    let Files { kernel, initrd, .. } = files;
    let size = config.memory.size_mib << 20;
    let entry = kernel.entry(config.boot)?;
    let low = memmap::low_ram(size);
    let place = match &initrd {
        Some(initrd) => Some(initrd.place(kernel.memory_range(), low, kernel.initrd_max())?),
        None => None,
    };
    let line = cmdline(config, devices)?.finish(kernel.cmdline_max())?;
    if config.memory.backing == MemoryBacking::Anonymous && !config.memory.thp {
        sparse_blocks(kernel.memory_range(), place).for_each(|block| memory::small_pages(ram, block));
    }
    kernel.load(images)?;
    if let (Some(initrd), Some(range)) = (initrd, place) {
        initrd.load(images, range)?;
    }
    let mut bytes = line.into_bytes();
    let cmdline_len = bytes.len();
    bytes.push(0);
    let acpi = acpi_tables(config, &devices.nodes);
    let mp = mptable::tables(layout::MP_TABLES, config.most_vcpus());
    let map = memmap::map(size);
    let rsdp = acpi.is_some().then_some(layout::ACPI_TABLES);
    let info = BootInfo { map: &map, initrd: place, rsdp, cmdline_len };
    let write = || {
        ram.write_slice(&bytes, GuestAddress(layout::CMDLINE))?;
        if let Some(acpi) = &acpi {
            ram.write_slice(acpi, GuestAddress(layout::ACPI_TABLES))?;
        }
        ram.write_slice(&mp, GuestAddress(layout::MP_TABLES))?;
        ram.write_slice(&mp[..mptable::POINTER_SIZE], GuestAddress(layout::MP_POINTER))?;
        match entry {
            Entry::Pvh(_) => pvh::write(ram, &info),
            Entry::Linux64(_, header) => linux64::write(ram, &info, header.as_ref()),
        }
    };
    write().expect("boot data lies below 1 MiB, where every machine has memory");
    Ok(match entry {
        Entry::Pvh(entry) => EntryState::Pvh { entry },
        Entry::Linux64(entry, _) => EntryState::Linux64 { entry },
    })
}

/// Huge-page sized blocks in which the boot uses little: the kernel's last one, and that of a small initrd at the
/// top of memory.
fn sparse_blocks(kernel: GuestRange, initrd: Option<GuestRange>) -> impl Iterator<Item = u64> {
    const LITTLE: u64 = memory::HUGE_PAGE / 4;
    let tail = (1..LITTLE).contains(&(kernel.end() % memory::HUGE_PAGE)).then_some(kernel.end());
    let initrd = initrd.filter(|initrd| initrd.len < LITTLE).map(|initrd| initrd.start);
    tail.into_iter().chain(initrd)
}

/// The ACPI tables, if the guest finds its devices by them.
fn acpi_tables(config: &MachineConfig, nodes: &[VirtioNode]) -> Option<Vec<u8>> {
    if config.discovery != DeviceDiscovery::Acpi {
        return None;
    }
    let serial = config.console.level == ConsoleLevel::Verbose && config.console.output != ConsoleOutput::None;
    let description = acpi::Description { vcpus: config.most_vcpus(), virtio: nodes, serial };
    Some(acpi::tables(layout::ACPI_TABLES, &description))
}

/// The machine's own parameters, then the devices, then the configured parameters (P-182).
pub(crate) fn cmdline(config: &MachineConfig, devices: &Devices) -> Result<Cmdline, CmdlineError> {
    let mut line = Cmdline::new();
    // A panic ends the machine at once, by ACPI's reset register; Linux would try EFI first on hardware-reduced machines.
    // The machine has no PCI bus.
    for parameter in ["panic=-1", "reboot=a", "pci=off"] {
        line.push(parameter)?;
    }
    if config.vcpus == 1 {
        // Linux would patch the lock prefixes out of its text, one by one, each through a mapping of its own.
        line.push("noreplace-smp")?;
    }
    if config.most_vcpus() > config.vcpus {
        // The other vCPUs are created on demand; the kernel would wait for each in vain.
        line.push(format!("maxcpus={}", config.vcpus))?;
    }
    let earlycon = format!("earlycon=uart8250,io,{:#x}", layout::SERIAL_PORT);
    match (&config.console.output, config.console.level) {
        (ConsoleOutput::None, _) => {
            for parameter in ["quiet", "8250.nr_uarts=0"] {
                line.push(parameter)?;
            }
        }
        // Critical messages and panics go through the early console, which no driver takes over: a driver would probe.
        (_, ConsoleLevel::Quiet) => {
            for parameter in ["quiet", "loglevel=3", &earlycon, "keep_bootcon", "8250.nr_uarts=0"] {
                line.push(parameter)?;
            }
        }
        (_, ConsoleLevel::Verbose) => {
            line.push(earlycon)?;
            line.push("console=ttyS0")?;
        }
    }
    if config.discovery == DeviceDiscovery::Cmdline {
        // A kernel built with ACPI would look for its tables.
        line.push("acpi=off")?;
        for node in &devices.nodes {
            let (size, address, gsi) = (layout::VIRTIO_MMIO_SIZE >> 10, node.address, node.gsi);
            line.push(format!("virtio_mmio.device={size}K@{address:#x}:{gsi}"))?;
        }
    }
    for parameter in &config.cmdline {
        line.push(parameter)?;
    }
    Ok(line)
}
