//! Single steps with a scripted vCPU.

use hutch_devices::testing::BusRecorder;

use super::*;
use crate::counters::ExitCounts;
use crate::hv::fake::{FakeHypervisor, FakeVcpu, Scripted};

struct Bench {
    hypervisor: FakeHypervisor,
    vcpu: FakeVcpu,
    device: Arc<BusRecorder>,
    io: IoSpace,
    counters: VcpuCounters,
}

impl Bench {
    fn new(script: Vec<Scripted>) -> Self {
        let hypervisor = FakeHypervisor::new([script]);
        let device = Arc::new(BusRecorder::default());
        let (mut mmio, mut pio) = (Bus::new(), Bus::new());
        mmio.insert(0xd000_0000, 0x1000, device.clone()).expect("free");
        pio.insert(0x10, 4, device.clone()).expect("free");
        let io = IoSpace { mmio: Arc::new(mmio), pio: Arc::new(pio) };
        Self { vcpu: hypervisor.vcpu(), hypervisor, device, io, counters: VcpuCounters::default() }
    }

    fn step(&mut self) -> StepOutcome {
        step(&mut self.vcpu, &self.io, &self.counters)
    }

    fn end(script: Scripted) -> VcpuExitReason {
        match Self::new(vec![script]).step() {
            StepOutcome::End(end) => end,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn port_and_memory_io_reach_their_buses_and_strings_item_by_item() {
    let mut bench = Bench::new(vec![
        Scripted::Out { port: 0x11, size: 1, data: vec![1, 2, 3] },
        Scripted::Out { port: 0x10, size: 4, data: vec![4, 5, 6, 7] },
        Scripted::Store(0xd000_0050, vec![8, 0, 0, 0]),
    ]);
    (0..3).for_each(|_| assert!(matches!(bench.step(), StepOutcome::Continue)));
    let expected = [(1, vec![1]), (1, vec![2]), (1, vec![3]), (0, vec![4, 5, 6, 7]), (0x50, vec![8, 0, 0, 0])];
    assert_eq!(bench.device.writes(), expected);
}

#[test]
fn reads_are_answered_and_without_a_device_with_all_ones() {
    let mut bench = Bench::new(vec![
        Scripted::In { port: 0x12, size: 1, len: 2 },
        Scripted::Load(0xd000_0004, 4),
        Scripted::In { port: 0x80, size: 2, len: 2 },
        Scripted::Load(0xe000_0000, 8),
        Scripted::Load(0xd000_0ffe, 4),
        Scripted::Interrupted,
    ]);
    (0..5).for_each(|_| assert!(matches!(bench.step(), StepOutcome::Continue)));
    assert!(matches!(bench.step(), StepOutcome::Interrupted));
    let inputs = bench.hypervisor.inputs();
    assert_eq!(inputs, [vec![2, 2], vec![4; 4], vec![0xff; 2], vec![0xff; 8], vec![0xff; 4]]);
    let counts = ExitCounts::sum([&bench.counters]);
    assert_eq!(counts, ExitCounts { pio_in: 2, mmio_read: 3, interrupted: 1, ..Default::default() });
}

#[test]
fn every_way_to_end_has_its_own_reason() {
    assert!(matches!(Bench::end(Scripted::TripleFault), VcpuExitReason::TripleFault));
    assert!(matches!(Bench::end(Scripted::SystemEvent(SystemEvent::Shutdown)), VcpuExitReason::PowerOff));
    assert!(matches!(Bench::end(Scripted::SystemEvent(SystemEvent::Reset)), VcpuExitReason::Reset));
    assert!(matches!(Bench::end(Scripted::SystemEvent(SystemEvent::Crash)), VcpuExitReason::Crash));
    assert!(matches!(Bench::end(Scripted::Fail(libc::EFAULT)), VcpuExitReason::Host(_)));
    assert!(matches!(Bench::end(Scripted::NotPlugged(5)), VcpuExitReason::NotPlugged(5)));
    for (script, text) in [
        (Scripted::SystemEvent(SystemEvent::Other(9)), "KVM system event 9"),
        (Scripted::InternalError(2), "KVM internal error 2 (rip 0x1234, instruction bytes 0f 0b)"),
        (
            Scripted::FailEntry(0x8000_0021),
            "entry to the guest failed, hardware reason 0x80000021 (rip 0x1234, instruction bytes 0f 0b)",
        ),
    ] {
        match Bench::end(script) {
            VcpuExitReason::Unhandled(reason) => assert_eq!(reason, text),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(Bench::end(Scripted::Hlt), VcpuExitReason::Unhandled(_)));
}

#[test]
fn an_emulation_failure_carries_the_instruction_kvm_gives_or_else_what_lies_at_rip() {
    for (given, expected) in [(vec![0x0f, 0xc7], vec![0x0f, 0xc7]), (vec![], vec![0x0f, 0x0b])] {
        match Bench::end(Scripted::EmulationFailure(given)) {
            VcpuExitReason::EmulationFailure(context) => {
                assert_eq!(context, FaultContext { rip: 0x1234, instruction: expected });
            }
            other => panic!("{other:?}"),
        }
    }
}
