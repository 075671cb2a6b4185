//! vCPU threads with scripted vCPUs.

use std::sync::mpsc::{channel, Sender};
use std::sync::Mutex;
use std::time::Duration;

use hutch_devices::bus::Bus;

use super::*;
use crate::hv::fake::{FakeHypervisor, Release, Scripted};

/// Far longer than any of these tests takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum Report {
    Paused(u64),
    Ended(VcpuExitReason),
    Gone,
}

struct Reports(Mutex<Sender<Report>>);

impl Reports {
    fn send(&self, report: Report) {
        // The receiver is gone when the test is over.
        let _ = self.0.lock().expect("no panics").send(report);
    }
}

impl VcpuEvents for Reports {
    fn paused(&self, _: u32, pause: u64) {
        self.send(Report::Paused(pause));
    }

    fn ended(&self, _: u32, end: VcpuExitReason) {
        self.send(Report::Ended(end));
    }

    fn gone(&self, _: u32) {
        self.send(Report::Gone);
    }
}

struct Bench {
    handle: VcpuHandle,
    reports: Receiver<Report>,
    hypervisor: FakeHypervisor,
}

impl Bench {
    fn new(script: Vec<Scripted>) -> Self {
        let hypervisor = FakeHypervisor::new([script]);
        let (sender, reports) = channel();
        let io = IoSpace { mmio: Arc::new(Bus::new()), pio: Arc::new(Bus::new()) };
        let events = Arc::new(Reports(Mutex::new(sender)));
        let handle = spawn(7, Box::new(hypervisor.vcpu()), io, Arc::default(), events, &ThreadRules::default())
            .expect("a thread");
        Self { handle, reports, hypervisor }
    }

    fn report(&self) -> Report {
        self.reports.recv_timeout(TEST_TIMEOUT).expect("a report in time")
    }

    fn nothing_reported(&self) {
        assert!(self.reports.recv_timeout(Duration::from_millis(20)).is_err());
    }

    fn stop(mut self) {
        self.handle.send(VcpuCommand::Stop);
        while !matches!(self.report(), Report::Gone) {}
        self.handle.join();
    }
}

#[test]
fn nothing_runs_before_the_run_command() {
    let bench = Bench::new(vec![Scripted::TripleFault]);
    bench.nothing_reported();
    bench.handle.send(VcpuCommand::Run);
    assert!(matches!(bench.report(), Report::Ended(VcpuExitReason::TripleFault)));
    bench.stop();
}

#[test]
fn a_guest_that_never_exits_is_paused_resumed_and_stopped() {
    let bench = Bench::new(vec![Scripted::Stay, Scripted::Stay]);
    bench.handle.send(VcpuCommand::Run);
    bench.handle.send(VcpuCommand::Pause(0));
    assert!(matches!(bench.report(), Report::Paused(0)));
    bench.nothing_reported();
    bench.handle.send(VcpuCommand::Run);
    bench.handle.send(VcpuCommand::Pause(0));
    assert!(matches!(bench.report(), Report::Paused(0)));
    assert_eq!(bench.hypervisor.resumed(), 1, "reported after the pause, and not at the start");
    bench.handle.send(VcpuCommand::Run);
    bench.stop();
}

#[test]
fn commands_in_any_rhythm_are_each_answered() {
    let bench = Bench::new(vec![]);
    for round in 0..200 {
        bench.handle.send(VcpuCommand::Run);
        if round % 3 == 0 {
            std::thread::yield_now();
        }
        bench.handle.send(VcpuCommand::Pause(0));
        assert!(matches!(bench.report(), Report::Paused(0)), "round {round}");
    }
    bench.stop();
}

#[test]
fn commands_that_came_while_a_vcpu_was_held_are_answered_in_order_before_the_guest_runs() {
    let release = Release::default();
    let bench = Bench::new(vec![Scripted::Busy(release.clone()), Scripted::TripleFault]);
    bench.handle.send(VcpuCommand::Run);
    release.wait_entered();
    for pause in 1..4 {
        bench.handle.send(VcpuCommand::Pause(pause));
        bench.handle.send(VcpuCommand::Run);
    }
    bench.handle.send(VcpuCommand::Pause(4));
    release.open();
    for pause in 1..5 {
        assert!(matches!(bench.report(), Report::Paused(number) if number == pause));
    }
    bench.nothing_reported();
    bench.handle.send(VcpuCommand::Run);
    assert!(matches!(bench.report(), Report::Ended(VcpuExitReason::TripleFault)));
    bench.stop();
}

#[test]
fn a_parked_vcpu_pauses_and_stops_too() {
    let bench = Bench::new(vec![]);
    bench.handle.send(VcpuCommand::Pause(0));
    assert!(matches!(bench.report(), Report::Paused(0)));
    bench.stop();
}

#[test]
fn after_the_end_of_the_guest_the_thread_still_obeys() {
    let bench = Bench::new(vec![Scripted::EmulationFailure(vec![1])]);
    bench.handle.send(VcpuCommand::Run);
    assert!(matches!(bench.report(), Report::Ended(VcpuExitReason::EmulationFailure(_))));
    bench.handle.send(VcpuCommand::Pause(0));
    assert!(matches!(bench.report(), Report::Paused(0)));
    bench.stop();
}

#[test]
fn a_bug_is_reported_and_the_thread_is_gone() {
    let mut bench = Bench::new(vec![Scripted::Bug]);
    bench.handle.send(VcpuCommand::Run);
    assert!(matches!(bench.report(), Report::Ended(VcpuExitReason::Bug)));
    assert!(matches!(bench.report(), Report::Gone));
    bench.handle.join();
}

#[test]
fn a_dropped_handle_ends_the_thread() {
    let Bench { handle, reports, .. } = Bench::new(vec![]);
    drop(handle);
    assert!(matches!(reports.recv_timeout(TEST_TIMEOUT), Ok(Report::Gone)));
}

#[test]
fn the_thread_bears_its_number() {
    let bench = Bench::new(vec![]);
    let named = || {
        std::fs::read_dir("/proc/self/task")
            .expect("Linux")
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .any(|name| name.trim() == "vcpu7")
    };
    // The new thread sets its name itself.
    bench.handle.send(VcpuCommand::Pause(0));
    assert!(matches!(bench.report(), Report::Paused(0)));
    assert!(named());
    bench.stop();
}
