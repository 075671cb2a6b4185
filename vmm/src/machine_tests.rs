//! Whole machines on the scripted hypervisor.

use std::time::Duration;

use tempfile::TempDir;

use crate::arch::EntryState;
use crate::builder;
use crate::config::{BlockConfig, ConsoleLevel, ConsoleOutput, DeviceDiscovery, VsockConfig};
use crate::hv::exit::SystemEvent;
use crate::hv::fake::{FakeHypervisor, Release, Scripted};
use crate::hv::Ioeventfd;
use crate::testing::{pvh_image, PvhImage};
use crate::{BuildError, Machine, MachineConfig, MachineError, MachineExit};

/// Far longer than any of these tests takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

struct Bench {
    config: MachineConfig,
    hypervisor: FakeHypervisor,
    dir: TempDir,
}

impl Bench {
    fn new(scripts: impl IntoIterator<Item = Vec<Scripted>>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kernel = dir.path().join("kernel");
        std::fs::write(&kernel, pvh_image(&PvhImage::default())).expect("a temporary file");
        let scripts: Vec<_> = scripts.into_iter().collect();
        let mut config = MachineConfig::new("test", kernel);
        config.vcpus = scripts.len().max(1) as u32;
        config.memory.size_mib = 4;
        Self { config, hypervisor: FakeHypervisor::new(scripts), dir }
    }

    fn build(&self) -> Result<Machine, BuildError> {
        Machine::build_on(&self.hypervisor, &self.config)
    }

    fn start(&self) -> Machine {
        let mut machine = self.build().expect("a good configuration");
        machine.start().expect("new");
        machine
    }

    fn exit(scripts: impl IntoIterator<Item = Vec<Scripted>>) -> MachineExit {
        let machine = Self::new(scripts).start();
        let exit = machine.wait(Some(TEST_TIMEOUT)).expect("ends in time");
        machine.shutdown().expect("everything leaves");
        exit
    }
}

fn out(port: u16, text: &str) -> Scripted {
    Scripted::Out { port, size: 1, data: text.as_bytes().to_vec() }
}

fn power(offset: u16, value: u8) -> Scripted {
    Scripted::Out { port: 0x600 + offset, size: 1, data: vec![value] }
}

#[test]
fn every_end_of_a_guest_has_its_own_name() {
    let panic = || out(0x3f8, "Kernel panic - not syncing: x\n");
    let context = |exit| match exit {
        MachineExit::EmulationFailure(context) => context.instruction,
        other => panic!("{other:?}"),
    };
    assert_eq!(Bench::exit([vec![power(0, 0x34)]]), MachineExit::PowerOff);
    assert_eq!(Bench::exit([vec![power(1, 1)]]), MachineExit::Reset);
    assert_eq!(Bench::exit([vec![panic(), power(1, 1)]]), MachineExit::GuestPanic);
    assert_eq!(Bench::exit([vec![panic(), Scripted::TripleFault]]), MachineExit::GuestPanic);
    assert_eq!(Bench::exit([vec![Scripted::TripleFault]]), MachineExit::TripleFault);
    assert_eq!(Bench::exit([vec![Scripted::SystemEvent(SystemEvent::Crash)]]), MachineExit::GuestPanic);
    assert_eq!(context(Bench::exit([vec![Scripted::EmulationFailure(vec![0xf0])]])), [0xf0]);
    assert_eq!(Bench::exit([vec![Scripted::NotPlugged(1 << 32)]]), MachineExit::NotPlugged(1 << 32));
    assert!(matches!(Bench::exit([vec![Scripted::FailEntry(7)]]), MachineExit::UnhandledExit(_)));
    assert!(matches!(Bench::exit([vec![Scripted::Fail(libc::ENOMEM)]]), MachineExit::Host(_)));
    assert!(matches!(Bench::exit([vec![Scripted::Bug]]), MachineExit::Host(_)));
}

#[test]
fn the_end_of_one_vcpu_ends_them_all_and_the_first_reason_counts() {
    let machine = Bench::new([vec![], vec![Scripted::TripleFault], vec![]]).start();
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::TripleFault));
    machine.stopper().stop();
    assert_eq!(machine.wait(None), Some(MachineExit::TripleFault));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn a_machine_is_started_once_paused_while_it_runs_and_resumed_while_it_is_paused() {
    let bench = Bench::new([vec![], vec![]]);
    let mut machine = bench.build().expect("good");
    assert!(matches!(machine.pause(), Err(MachineError::State(_))));
    assert!(matches!(machine.resume(), Err(MachineError::State(_))));
    machine.start().expect("new");
    assert!(matches!(machine.start(), Err(MachineError::State(_))));
    for round in 1..=3 {
        machine.pause().expect("running");
        assert!(matches!(machine.pause(), Err(MachineError::State(_))));
        machine.resume().expect("paused");
        machine.pause().expect("running");
        machine.resume().expect("paused");
        assert!(bench.hypervisor.resumed() >= round, "the guest hears that its clock stood still");
    }
    machine.stopper().stop();
    assert!(matches!(machine.pause(), Err(MachineError::Over(MachineExit::Stopped))));
    assert!(matches!(machine.resume(), Err(MachineError::Over(MachineExit::Stopped))));
}

/// Pauses again and again until the vCPU that was held has left the guest.
fn pause_at_last(machine: &mut Machine) {
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    loop {
        match machine.pause() {
            Ok(()) => return,
            Err(error) => assert!(matches!(error, MachineError::VcpuStuck { .. }), "{error}"),
        }
        assert!(std::time::Instant::now() < deadline, "it is never paused");
    }
}

#[test]
fn after_a_pause_that_failed_the_guest_goes_on_and_can_be_paused_again() {
    let release = Release::default();
    let held = vec![Scripted::Busy(release.clone()), Scripted::Stay, Scripted::Stay, power(0, 0x34)];
    let mut bench = Bench::new([held, vec![]]);
    bench.config.timeouts.vcpu = Duration::from_millis(10);
    let mut machine = bench.start();
    release.wait_entered();
    for _ in 0..3 {
        match machine.pause() {
            Err(MachineError::VcpuStuck { count, .. }) => assert!((1..=2).contains(&count)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(machine.resume(), Err(MachineError::State(_))), "it runs");
        let paused = machine.control().with_guest_paused(|| panic!("the guest is not paused"));
        assert!(matches!(paused, Err(MachineError::VcpuStuck { .. })));
    }
    release.open();
    pause_at_last(&mut machine);
    let before = machine.counters().exits;
    assert_eq!(machine.wait(Some(Duration::from_millis(20))), None, "paused");
    assert_eq!(machine.counters().exits, before);
    machine.resume().expect("paused");
    // Each further pause ends a step of the script.
    while machine.wait(Some(Duration::from_millis(1))).is_none() {
        pause_or_over(&mut machine);
    }
    assert_eq!(machine.wait(None), Some(MachineExit::PowerOff));
    machine.shutdown().expect("everything leaves");
}

fn pause_or_over(machine: &mut Machine) {
    match machine.pause() {
        Ok(()) => match machine.resume() {
            Ok(()) | Err(MachineError::Over(_)) => (),
            Err(error) => panic!("{error}"),
        },
        Err(MachineError::Over(_) | MachineError::VcpuStuck { .. }) => (),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_vcpu_that_does_not_end_in_time_is_an_error_of_the_shutdown() {
    let release = Release::default();
    let mut bench = Bench::new([vec![Scripted::Busy(release.clone())]]);
    bench.config.timeouts.vcpu = Duration::from_millis(10);
    let machine = bench.start();
    release.wait_entered();
    assert!(matches!(machine.shutdown(), Err(MachineError::VcpuStuck { count: 1, .. })));
    release.open();
}

#[test]
fn a_paused_machine_can_be_stopped() {
    let mut machine = Bench::new([vec![]]).start();
    machine.pause().expect("running");
    machine.stopper().stop();
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn waiting_has_an_end() {
    let machine = Bench::new([vec![]]).start();
    assert_eq!(machine.wait(Some(Duration::from_millis(10))), None);
    assert_eq!(machine.wait(Some(Duration::ZERO)), None);
    machine.stopper().stop();
    assert_eq!(machine.wait(Some(Duration::MAX)), Some(MachineExit::Stopped));
}

#[test]
fn a_stopper_outlives_its_machine() {
    let machine = Bench::new([vec![]]).start();
    let stopper = machine.stopper();
    drop(machine);
    stopper.stop();
}

#[test]
fn only_the_first_vcpu_has_an_entry() {
    let bench = Bench::new([vec![], vec![], vec![]]);
    drop(bench.build().expect("good"));
    assert_eq!(bench.hypervisor.entries(), [Some(EntryState::Pvh { entry: 0x10_0000 }), None, None]);
}

#[test]
fn each_device_has_an_irqfd_and_an_ioeventfd_for_each_queue() {
    let mut bench = Bench::new([vec![Scripted::Load(0xd000_1008, 4)]]);
    bench.config.vsock = Some(VsockConfig { guest_cid: 3 });
    bench.config.rng = true;
    let machine = bench.start();
    assert!(machine.vsock().is_some());
    assert_eq!(bench.hypervisor.irqfds(), [5, 6]);
    let notify = |address, value| Ioeventfd::Mmio { address, value };
    let vsock: Vec<_> = (0..3).map(|queue| notify(0xd000_0050, queue)).collect();
    assert_eq!(bench.hypervisor.ioeventfds(), [vsock, vec![notify(0xd000_1050, 0)]].concat());
    drop(machine);
    assert!(Bench::new([vec![]]).build().expect("good").vsock().is_none());
}

#[test]
fn a_verbose_console_has_an_interrupt_and_a_silent_one_has_none() {
    for (level, irqfds) in [(ConsoleLevel::Verbose, vec![4]), (ConsoleLevel::Quiet, vec![])] {
        let mut bench = Bench::new([vec![]]);
        bench.config.console.level = level;
        drop(bench.build().expect("good"));
        assert_eq!(bench.hypervisor.irqfds(), irqfds);
    }
}

#[test]
fn marks_and_counters_report_the_events() {
    let machine = Bench::new([vec![out(0xe9, "IA"), power(0, 0x34)]]).start();
    machine.wait(Some(TEST_TIMEOUT)).expect("ends in time");
    let names: Vec<String> = machine.marks().into_iter().map(|mark| mark.name).collect();
    let expected = [
        "build",
        "vm-created",
        "memory-ready",
        "devices-ready",
        "kernel-loaded",
        "vcpus-ready",
        "start",
        "guest:init",
        "guest:agent-ready",
        "end",
    ];
    assert_eq!(names, expected);
    assert_eq!(machine.counters().exits.pio_out, 2);
}

#[test]
fn errors_are_reported_before_anything_is_built() {
    let build = |change: &dyn Fn(&mut MachineConfig)| {
        let mut bench = Bench::new([vec![]]);
        change(&mut bench.config);
        let error = bench.build().err().expect("a bad configuration");
        assert!(bench.hypervisor.entries().is_empty());
        error
    };
    assert!(matches!(build(&|c| c.vcpus = 0), BuildError::Config(_)));
    assert!(matches!(build(&|c| c.memory.size_mib = 0), BuildError::Config(_)));
    assert!(matches!(build(&|c| c.memory.size_mib = 1 << 40), BuildError::Memory(_)));
    assert!(matches!(build(&|c| c.kernel = "/nowhere".into()), BuildError::Kernel(_)));
    assert!(matches!(build(&|c| c.initrd = Some("/nowhere".into())), BuildError::Initrd(_)));
    assert!(matches!(build(&|c| c.cmdline.push("=x".into())), BuildError::Cmdline(_)));
    assert!(matches!(build(&|c| c.cmdline.push("x".repeat(3000))), BuildError::Cmdline(_)));
    let console = ConsoleOutput::File("/nowhere/x".into());
    assert!(matches!(build(&|c| c.console.output = console.clone()), BuildError::Console { .. }));
    let disk = BlockConfig { id: "disk".into(), path: "/nowhere".into(), read_only: true, serial: None };
    let error = build(&|c| c.blocks.push(disk.clone()));
    assert_eq!(error.to_string(), "cannot set up device disk");
    assert!(std::error::Error::source(&error).is_some(), "the device's own reason is its source");
}

#[test]
fn the_owner_has_the_slots_that_the_machine_was_built_with() {
    let mut bench = Bench::new([vec![]]);
    bench.config.block_slots = 2;
    let machine = bench.build().expect("good");
    let image = bench.dir.path().join("image");
    std::fs::write(&image, [0; 512]).expect("a temporary file");
    let [first, second] = machine.block_slots() else { panic!("{} slots", machine.block_slots().len()) };
    first.insert(&image, false, "a").expect("an empty slot");
    second.insert(&image, false, "b").expect_err("it is in the other one");
    first.eject();
    second.insert(&image, false, "b").expect("it is free");
}

#[test]
fn an_initrd_without_room_is_refused_with_the_amount_needed() {
    let mut bench = Bench::new([vec![]]);
    let initrd = bench.dir.path().join("initrd");
    std::fs::write(&initrd, [&[0x1f, 0x8b][..], &vec![0; 4 << 20]].concat()).expect("a temporary file");
    bench.config.initrd = Some(initrd);
    let error = bench.build().err().expect("too large").to_string();
    assert!(error.contains("need 6 MiB") && error.contains("has 4 MiB"), "{error}");
}

#[test]
fn a_growing_machine_boots_with_enough_memory_for_its_initrd() {
    let built = |initrd_mib: u64, pluggable_mib| {
        let mut bench = Bench::new([vec![]]);
        let initrd = bench.dir.path().join("initrd");
        std::fs::write(&initrd, [0x1f, 0x8b]).expect("a temporary file");
        let file = std::fs::File::options().write(true).open(&initrd).expect("ours");
        file.set_len(initrd_mib << 20).expect("a file with a hole");
        bench.config.initrd = Some(initrd);
        (bench.config.memory.size_mib, bench.config.memory.pluggable_mib) = (128, pluggable_mib);
        bench.build().map(|machine| {
            let plugged = machine.memory().map_or(0, |memory| memory.capacity() >> 20);
            assert_eq!(machine.boot_memory_mib() + plugged, 128 + pluggable_mib, "the sum stays");
            machine.boot_memory_mib()
        })
    };
    assert_eq!(built(1, 1024).expect("fits"), 128);
    assert_eq!(built(130, 1024).expect("fits after all"), 768);
    assert_eq!(built(130, 128).expect("fits, with what there is"), 256);
    assert!(matches!(built(130, 0), Err(BuildError::Initrd(_))));
}

#[test]
fn an_unused_console_leaves_no_trace_in_the_command_line() {
    use crate::attach::Devices;
    let line = |change: &dyn Fn(&mut MachineConfig)| {
        let mut bench = Bench::new([]);
        change(&mut bench.config);
        builder::cmdline(&bench.config, &Devices::default()).expect("good").finish(2047).expect("short")
    };
    let quiet = line(&|_| ());
    assert!(quiet.contains("earlycon=uart8250,io,0x3f8 keep_bootcon 8250.nr_uarts=0"), "{quiet}");
    assert!(!quiet.contains("console=ttyS0"));
    assert!(line(&|c| c.console.level = ConsoleLevel::Verbose).ends_with("console=ttyS0"));
    assert!(!line(&|c| c.console.output = ConsoleOutput::None).contains("earlycon"));
}

#[test]
fn devices_are_on_the_command_line_if_configured() {
    use crate::arch::x86_64::acpi::VirtioNode;
    use crate::attach::Devices;
    let mut bench = Bench::new([]);
    let devices = Devices { nodes: vec![VirtioNode { address: 0xd000_1000, gsi: 6 }], ..Devices::default() };
    let line = |config: &MachineConfig| builder::cmdline(config, &devices).expect("good").finish(2047).expect("short");
    assert!(!line(&bench.config).contains("virtio_mmio"));
    bench.config.discovery = DeviceDiscovery::Cmdline;
    assert!(line(&bench.config).ends_with(" virtio_mmio.device=4K@0xd0001000:6"));
}

#[test]
fn vcpus_are_created_on_demand_and_follow_the_others() {
    // The third one ends the machine as soon as it runs.
    let mut bench = Bench::new([vec![Scripted::Stay], vec![], vec![power(0, 0x34)]]);
    (bench.config.vcpus, bench.config.max_vcpus) = (1, 3);
    let mut machine = bench.start();
    assert_eq!(bench.hypervisor.entries().len(), 1, "only the first is created with the machine");
    machine.ensure_vcpus(2).expect("there may be three");
    machine.ensure_vcpus(1).expect("there are more already");
    assert_eq!(bench.hypervisor.entries().len(), 2);
    assert!(bench.hypervisor.entries()[1].is_none(), "the guest starts it");
    machine.pause().expect("it runs");
    machine.ensure_vcpus(100).expect("the upper limit");
    assert_eq!(bench.hypervisor.entries().len(), 3);
    assert_eq!(machine.wait(Some(Duration::from_millis(20))), None, "the third one is paused too");
    machine.resume().expect("it is paused");
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::PowerOff));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn the_command_line_limits_the_kernel_to_the_vcpus_at_its_start() {
    let mut bench = Bench::new([vec![]]);
    let line = |config: &MachineConfig| {
        builder::cmdline(config, &crate::attach::Devices::default()).expect("good").finish(2047).expect("short")
    };
    assert!(!line(&bench.config).contains("maxcpus"));
    bench.config.max_vcpus = 4;
    assert!(line(&bench.config).contains(" maxcpus=1 "), "{}", line(&bench.config));
}

/// The kernel takes the last of several.
#[test]
fn p_182_configured_parameters_come_after_all_of_the_machines_own() {
    use crate::arch::x86_64::acpi::VirtioNode;
    let nodes = vec![VirtioNode { address: 0xd000_1000, gsi: 6 }];
    let devices = crate::attach::Devices { nodes, ..Default::default() };
    for (discovery, level, max_vcpus) in [
        (DeviceDiscovery::Acpi, ConsoleLevel::Quiet, 1),
        (DeviceDiscovery::Cmdline, ConsoleLevel::Verbose, 4),
        (DeviceDiscovery::Cmdline, ConsoleLevel::Quiet, 4),
    ] {
        let mut bench = Bench::new([]);
        let config = &mut bench.config;
        (config.discovery, config.console.level, config.max_vcpus) = (discovery, level, max_vcpus);
        let line = |config: &MachineConfig| {
            let line = builder::cmdline(config, &devices).expect("good").finish(2047).expect("short");
            line.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let own = line(config);
        assert!(own.contains(&"panic=-1".to_owned()), "{own:?}");
        // The same names as the machine's own, one of them twice.
        let configured = ["panic=9", "loglevel=7", "console=hvc0", "maxcpus=2", "panic=8"];
        config.cmdline = configured.map(str::to_owned).to_vec();
        let all = line(config);
        assert_eq!((&all[..own.len()], &all[own.len()..]), (&own[..], &config.cmdline[..]));
    }
}

#[test]
fn memory_is_plugged_on_request_or_when_the_guest_marks_that_it_is_ready() {
    let mark = || Scripted::Out { port: 0xe9, size: 1, data: b"A".to_vec() };
    let requested = |at_mark| {
        let mut bench = Bench::new([vec![mark(), power(0, 0x34)]]);
        (bench.config.memory.pluggable_mib, bench.config.memory.plug_at_mark) = (8, at_mark);
        let machine = bench.start();
        assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::PowerOff));
        let memory = machine.memory().expect("pluggable memory");
        assert_eq!((memory.capacity(), memory.plugged()), (8 << 20, 0));
        memory.requested()
    };
    assert_eq!(requested(false), 0);
    assert_eq!(requested(true), 8 << 20);
    assert!(Bench::new([vec![]]).build().expect("good").memory().is_none());
}
