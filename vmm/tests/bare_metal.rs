//! Bare-metal guests on the host's `/dev/kvm`, with a processor or an emulator behind it. Without it these tests fail.

mod guests;

use std::time::{Duration, Instant};

use guests::{Bench, LOAD, TEST_TIMEOUT};
use hutch_vmm::config::{BootProtocol, ConsoleOutput};
use hutch_vmm::counters::ExitCounts;
use hutch_vmm::testing::PvhImage;
use hutch_vmm::MachineExit;

fn names(machine: &hutch_vmm::Machine) -> Vec<String> {
    machine.marks().into_iter().map(|mark| mark.name).collect()
}

#[test]
fn a_guest_prints_and_powers_off() {
    let (machine, exit) = Bench::new(guests::hello()).run();
    assert_eq!(exit, MachineExit::PowerOff);
    assert_eq!(machine.console_tail(5), ["hello, world"]);
    let exits = machine.counters().exits;
    assert_eq!(exits, ExitCounts { pio_out: 14, interrupted: exits.interrupted, ..Default::default() });
    let marks = names(&machine);
    assert_eq!(marks.first().map(String::as_str), Some("build"));
    assert_eq!(marks.last().map(String::as_str), Some("end"));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn output_goes_to_the_console_file() {
    let mut bench = Bench::new(guests::hello());
    let path = bench.path("console");
    bench.config.console.output = ConsoleOutput::File(path.clone());
    let (_machine, exit) = bench.run();
    assert_eq!(exit, MachineExit::PowerOff);
    assert_eq!(std::fs::read_to_string(path).expect("written"), "hello, world\n");
}

#[test]
fn resets_in_both_ways_are_seen() {
    for code in [guests::reset(), guests::reset_i8042()] {
        assert_eq!(Bench::new(code).run().1, MachineExit::Reset);
    }
}

#[test]
fn a_panic_before_a_reset_is_a_panic() {
    let (machine, exit) = Bench::new(guests::panic()).run();
    assert_eq!(exit, MachineExit::GuestPanic);
    assert_eq!(machine.console_tail(1), ["[    0.1] Kernel panic - not syncing: test"]);
    let mut silent = Bench::new(guests::panic());
    silent.config.console.output = ConsoleOutput::None;
    assert_eq!(silent.run().1, MachineExit::Reset, "without a console the panic stays unnoticed");
}

#[test]
fn a_triple_fault_has_its_own_exit() {
    assert_eq!(Bench::new(guests::triple_fault()).run().1, MachineExit::TripleFault);
}

#[test]
fn executing_from_nowhere_is_an_emulation_failure_with_the_address() {
    match Bench::new(guests::execute_nothing()).run().1 {
        MachineExit::EmulationFailure(context) => assert_eq!(context.rip, 0xdff0_0000),
        // A KVM that cannot read the instruction reports another kind of exit.
        MachineExit::UnhandledExit(text) => assert!(text.contains("rip 0xdff00000"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_halted_and_a_spinning_guest_are_stopped_at_once() {
    for code in [guests::halt(), guests::spin()] {
        let machine = Bench::new(code).start();
        assert_eq!(machine.wait(Some(Duration::from_millis(50))), None);
        let stopper = machine.stopper();
        let asked = Instant::now();
        std::thread::spawn(move || stopper.stop());
        assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped));
        machine.shutdown().expect("everything leaves");
        assert!(asked.elapsed() < TEST_TIMEOUT / 4, "{:?}", asked.elapsed());
    }
}

#[test]
fn a_dropped_machine_takes_its_guest_along() {
    drop(Bench::new(guests::spin()).start());
    let bench = Bench::new(guests::spin());
    drop(hutch_vmm::Machine::build(&bench.config).expect("bare-metal guests need /dev/kvm"));
}

#[test]
fn a_paused_guest_makes_no_progress_and_goes_on_afterwards() {
    let mut machine = Bench::new(guests::tick()).start();
    let exits = |machine: &hutch_vmm::Machine| machine.counters().exits.pio_out;
    let deadline = Instant::now() + TEST_TIMEOUT;
    let wait_for = |machine: &hutch_vmm::Machine, count: u64| {
        while exits(machine) < count {
            assert!(Instant::now() < deadline, "no progress");
            std::thread::yield_now();
        }
    };
    wait_for(&machine, 3);
    for _ in 0..5 {
        machine.pause().expect("it runs");
        let before = exits(&machine);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(exits(&machine), before);
        machine.resume().expect("it is paused");
        wait_for(&machine, before + 3);
    }
    assert!(names(&machine).contains(&"guest:0x54".to_owned()));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn device_registers_answer_and_an_address_without_a_device_gives_ones() {
    let mut bench = Bench::new(guests::mmio());
    bench.config.rng = true;
    let (machine, exit) = bench.run();
    assert_eq!(exit, MachineExit::PowerOff);
    assert_eq!(machine.console_tail(1), ["virt40"], "magic, device id 4, and -1 + 1");
    let exits = machine.counters().exits;
    assert_eq!((exits.mmio_read, exits.mmio_write), (3, 0), "the queue notification does not reach user space");
}

#[test]
fn the_command_line_arrives_by_pvh_with_the_configured_parameters_last() {
    let mut bench = Bench::new(guests::cmdline_pvh());
    bench.config.cmdline = vec!["first=1".into(), "panic=5".into()];
    let (machine, exit) = bench.run();
    assert_eq!(exit, MachineExit::PowerOff);
    let line = machine.console_tail(1).remove(0);
    assert!(line.starts_with("panic=-1 ") && line.ends_with(" first=1 panic=5"), "{line}");
}

#[test]
fn a_64_bit_entry_finds_its_boot_parameters() {
    let code = guests::cmdline64();
    let mut bench = Bench::with_image(&PvhImage { load: LOAD, code, pvh: false, ..PvhImage::default() });
    bench.config.boot = BootProtocol::Linux64;
    bench.config.cmdline = vec!["sixty=four".into()];
    let (machine, exit) = bench.run();
    assert_eq!(exit, MachineExit::PowerOff);
    let line = machine.console_tail(1).remove(0);
    assert!(line.ends_with("sixty=four"), "{line}");
}

#[test]
fn a_second_processor_starts_in_real_mode() {
    let mut bench = Bench::new(guests::smp());
    bench.config.vcpus = 2;
    let (machine, exit) = bench.run();
    assert_eq!(exit, MachineExit::PowerOff);
    let marks = names(&machine);
    let position = |name: &str| marks.iter().position(|mark| mark == name);
    assert!(position("guest:agent-ready").is_some(), "'A' by the second processor: {marks:?}");
    assert!(position("guest:agent-ready") < position("guest:0x42"), "{marks:?}");
}

#[test]
fn several_machines_live_side_by_side() {
    let benches: Vec<Bench> = (0..4).map(|_| Bench::new(guests::hello())).collect();
    let machines: Vec<_> = benches.iter().map(Bench::start).collect();
    for machine in machines {
        assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::PowerOff));
    }
}
