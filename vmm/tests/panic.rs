//! A panic in the product ends the process: release builds abort. The tests of this repository unwind, so each case here
//! is a process of its own, whose hook does what `panic = "abort"` does: it reports the panic and aborts.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::Duration;

use hutch_devices::worker::{Next, Poller, Worker, WorkerHandle};
use hutch_vmm::hv::fake::{FakeHypervisor, Scripted};
use hutch_vmm::testing::{pvh_image, PvhImage};
use hutch_vmm::{Machine, MachineConfig};
use vmm_sys_util::epoll::EventSet;

/// Names the case to the child.
const CASE: &str = "HUTCH_TEST_PANIC";

/// Runs one case in a process of its own.
fn child(case: &str) -> Output {
    Command::new(std::env::current_exe().expect("our own program"))
        .args(["--exact", "the_child", "--nocapture", "--test-threads", "1"])
        .env(CASE, case)
        .output()
        .expect("our own program can be run")
}

/// A device thread with a bug.
struct Buggy;

impl Worker for Buggy {
    fn register(&mut self, _: &Poller) -> io::Result<()> {
        Ok(())
    }

    fn resumed(&mut self, _: &Poller) -> Next {
        panic!("a bug in a device")
    }

    fn ready(&mut self, _: u64, _: EventSet, _: &Poller) -> Next {
        Next::Continue
    }

    fn failed(&mut self) {}
}

/// Does nothing unless it is a child.
#[test]
fn the_child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    if case == "device" {
        let worker = WorkerHandle::spawn(Box::new(|| ()), "blk7", Duration::from_secs(60), Buggy).expect("a thread");
        std::thread::sleep(Duration::from_secs(60));
        drop(worker);
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, pvh_image(&PvhImage::default())).expect("a temporary file");
    let mut config = MachineConfig::new("test", kernel);
    config.memory.size_mib = 4;
    let mut machine = Machine::build_on(&FakeHypervisor::new([vec![Scripted::Bug]]), &config).expect("good");
    machine.start().expect("new");
    machine.wait(Some(Duration::from_secs(60)));
}

#[test]
fn a_panic_of_a_device_or_vcpu_thread_ends_the_process_and_names_the_thread() {
    for (case, thread, message) in [("device", "blk7", "a bug in a device"), ("vcpu", "vcpu0", "scripted bug")] {
        let output = child(case);
        assert_eq!(output.status.signal(), Some(6), "SIGABRT: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("thread '{thread}'")) && text.contains(message), "{text}");
    }
}

#[test]
fn release_builds_abort() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, profile) = manifest.split_once("[profile.release]\n").expect("a profile");
    let (profile, _) = profile.split_once("\n[").expect("further tables");
    assert!(profile.contains("panic = \"abort\""), "{profile}");
}
