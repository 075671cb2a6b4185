//! The mutating calls, each in a process of its own that can be killed.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hutch_runtime::spec::{
    self, ContainerConfig, HypervisorConfig, MountSpec, NetworkConfig, NetworkKind, PodConfig, Resources,
};
use hutch_runtime::{DeleteOptions, Limits, Options, Result, Runtime, State, StopOptions};
use hutch_runtime_fakes::process::Stage;

/// Name of the test that plays roles.
pub const ROLE_TEST: &str = "role";
const CALL: &str = "HUTCH_TEST_CALL";
const DIR: &str = "HUTCH_TEST_STAGE";

/// A mutating call, and the state it is made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub name: &'static str,
    pub prepare: &'static [&'static str],
}

/// Every mutating call of the API.
pub const CASES: [Case; 28] = [
    Case { name: "create_pod", prepare: &[] },
    Case { name: "run_pod", prepare: &[] },
    Case { name: "start_pod", prepare: &["create_pod"] },
    Case { name: "start_pod", prepare: &["run_pod", "force_stop_pod"] },
    Case { name: "stop_pod", prepare: &["run_pod", "kill_container"] },
    Case { name: "force_stop_pod", prepare: &["run_pod"] },
    Case { name: "stop_pod", prepare: &["run_pod", "pause_pod"] },
    Case { name: "delete_pod", prepare: &["create_pod"] },
    Case { name: "delete_pod", prepare: &["run_pod", "force_stop_pod"] },
    Case { name: "start_pod", prepare: &["run_pod", "host_restart"] },
    Case { name: "delete_pod", prepare: &["run_pod", "host_restart"] },
    Case { name: "pause_pod", prepare: &["run_pod"] },
    Case { name: "resume_pod", prepare: &["run_pod", "pause_pod"] },
    Case { name: "create_container", prepare: &["run_pod"] },
    Case { name: "start_container", prepare: &["run_pod", "create_container"] },
    Case { name: "start_container", prepare: &["run_pod", "create_container", "start_container", "stop_container"] },
    Case { name: "stop_container", prepare: &["run_pod", "create_container", "start_container"] },
    Case { name: "delete_container", prepare: &["run_pod", "create_container"] },
    Case { name: "exec_container", prepare: &["run_pod", "create_container"] },
    Case { name: "kill_container", prepare: &["run_pod"] },
    Case { name: "update_container", prepare: &["run_pod"] },
    Case { name: "run_disk_pod", prepare: &[] },
    Case { name: "start_pod", prepare: &["run_disk_pod", "force_stop_pod"] },
    Case { name: "create_disk_container", prepare: &["run_disk_pod"] },
    Case { name: "start_container", prepare: &["run_disk_pod", "create_disk_container", "stop_container"] },
    Case { name: "stop_container", prepare: &["run_disk_pod", "create_disk_container", "start_container"] },
    Case { name: "delete_container", prepare: &["run_disk_pod", "create_disk_container"] },
    Case { name: "remove_volume", prepare: &["run_disk_pod", "force_stop_pod", "delete_pod"] },
];

impl Case {
    pub fn label(&self) -> String {
        format!("{} after [{}]", self.name, self.prepare.join(" "))
    }

    /// A stage on which the call can be made.
    pub fn stage(&self) -> Stage {
        let stage = Stage::new(ROLE_TEST);
        let runtime = stage.runtime();
        for call in self.prepare {
            perform(&stage, &runtime, call)
                .unwrap_or_else(|e| panic!("preparing {}: {call}: {}", self.label(), e.chain()));
        }
        stage
    }

    /// The call in a process of its own.
    pub fn command(&self, stage: &Stage) -> Command {
        let mut command = stage.command("call");
        command.env(CALL, self.name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// A pod with one container.
pub fn pod(stage: &Stage, id: &str) -> PodConfig {
    PodConfig {
        id: id.into(),
        hypervisor: HypervisorConfig {
            kernel: stage.dir().join("kernel"),
            initrd: Some(stage.dir().join("initrd")),
            max_memory_mib: 4096,
            ..HypervisorConfig::default()
        },
        network: NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() },
        containers: vec![container(stage, "a")],
        cgroup: "group/of/pod".into(),
        ..PodConfig::default()
    }
}

pub fn container(stage: &Stage, id: &str) -> ContainerConfig {
    ContainerConfig {
        id: id.into(),
        rootfs: stage.dir().join("rootfs"),
        command: spec::Command { args: vec!["serve".into()], detach: true, ..spec::Command::default() },
        // The machine's size follows each that comes and goes.
        resources: Resources {
            cpu_quota: Some(150_000),
            cpu_period: Some(100_000),
            memory: Some(100 << 20),
            ..Resources::default()
        },
        ..ContainerConfig::default()
    }
}

/// A container with everything that is a disk or outlives it.
fn disk_container(stage: &Stage, id: &str) -> ContainerConfig {
    let image = stage.dir().join("disk");
    let mount = |kind: &str, source: &str, destination: &str| MountSpec {
        kind: kind.into(),
        source: source.into(),
        destination: destination.into(),
        ..MountSpec::default()
    };
    let mounts = vec![mount("block", &image.to_string_lossy(), "/block"), mount("volume", "data", "/data")];
    ContainerConfig { rootfs: image, mounts, ..container(stage, id) }
}

/// A pod whose container has disks, with room for those of another.
fn disk_pod(stage: &Stage) -> PodConfig {
    let mut pod = pod(stage, "p");
    pod.hypervisor.block_slots = 2;
    pod.containers = vec![disk_container(stage, "a")];
    pod
}

/// Makes a call.
pub fn perform(stage: &Stage, runtime: &Runtime, call: &str) -> Result<()> {
    let force = StopOptions::forced();
    match call {
        "host_restart" => {
            stage.host_restart();
            Ok(())
        }
        "create_pod" => runtime.create_pod(pod(stage, "p")).map(drop),
        "run_disk_pod" => runtime.run_pod(disk_pod(stage)).map(drop),
        "create_disk_container" => runtime.create_container("p", disk_container(stage, "b")).map(drop),
        "remove_volume" => runtime.remove_volume("data"),
        "run_pod" => runtime.run_pod(pod(stage, "p")).map(drop),
        "status_pod" => runtime.status_pod("p").map(drop),
        "start_pod" => runtime.start_pod("p").map(drop),
        "stop_pod" => runtime.stop_pod("p", StopOptions::without_signal()).map(drop),
        "force_stop_pod" => runtime.stop_pod("p", force).map(drop),
        "delete_pod" => runtime.delete_pod("p", DeleteOptions::default()).map(drop),
        "pause_pod" => runtime.pause_pod("p").map(drop),
        "resume_pod" => runtime.resume_pod("p").map(drop),
        "create_container" => runtime.create_container("p", container(stage, "b")).map(drop),
        "start_container" => runtime.start_container("p", "b").map(drop),
        "stop_container" => runtime.stop_container("p", "b", force).map(drop),
        "delete_container" => runtime.delete_container("p", "b").map(drop),
        "exec_container" => {
            let command = spec::Command { args: vec!["serve".into()], detach: true, ..spec::Command::default() };
            runtime.exec_container("p", "a", &command, Default::default()).map(drop)
        }
        "kill_container" => runtime.kill_container("p", "a", 9, true),
        "update_container" => runtime.update_container("p", "a", &Limits { pids: Some(7), ..Limits::default() }),
        other => panic!("no such call: {other}"),
    }
}

/// The role of a process that makes a call. Status 0: it succeeded, 3: it failed.
pub fn play(role: &str) -> u8 {
    let stage = Stage::at(&PathBuf::from(std::env::var_os(DIR).expect("a stage")), ROLE_TEST);
    let runtime = stage.runtime();
    if role == "hammer" {
        return crate::concurrency::hammer(&stage, &runtime);
    }
    if role == "hook" {
        return crate::processes::call_own_pod(&stage, &runtime);
    }
    assert_eq!(role, "call");
    match perform(&stage, &runtime, &std::env::var(CALL).expect("a call")) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", error.chain());
            3
        }
    }
}

/// Whether a process was killed with SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

/// Points that the call passes, in order.
pub fn points(case: &Case) -> Vec<String> {
    let stage = case.stage();
    let trace = stage.dir().join("trace");
    let output = case.command(&stage).env("HUTCH_FAULT_TRACE", &trace).output().expect("a child");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", case.label());
    let text = std::fs::read_to_string(trace).expect("a trace");
    text.lines().map(str::to_owned).collect()
}

/// `NAME#N` for each pass: the N-th of that name.
pub fn numbered(points: &[String]) -> Vec<String> {
    let nth = |index: usize| points[..=index].iter().filter(|other| **other == points[index]).count();
    points.iter().enumerate().map(|(index, name)| format!("{name}#{}", nth(index))).collect()
}

/// How long the clean-up waits for a guest that has fallen silent. A short wait is for those cases only: on a busy
/// machine a guest that is well may take as long.
pub const SILENT_GUEST: Duration = Duration::from_millis(300);

/// Whatever was killed: list, status, stop and delete work, nothing leaks, the id is free.
pub fn assert_recovers(stage: &Stage, label: &str) {
    assert_recovers_within(stage, label, stage.options().agent_timeout);
}

/// As [`assert_recovers`], with a bound for each answer of the guest that was there before.
pub fn assert_recovers_within(stage: &Stage, label: &str, agent_timeout: Duration) {
    let options = Options { agent_timeout, ..stage.options() };
    let runtime = Runtime::new(stage.store(), stage.backends(), options);
    let list = runtime.list_pods().unwrap_or_else(|e| panic!("{label}: list: {}", e.chain()));
    assert!(list.iter().all(|pod| pod.error.is_none()), "{label}: {list:?}");
    if let Some(pod) = list.first() {
        let status = runtime.status_pod("p").unwrap_or_else(|e| panic!("{label}: status: {}", e.chain()));
        assert!(status.state.is_some(), "{label}");
        for container in &pod.containers {
            match runtime.status_container("p", &container.id) {
                Ok(_) => {}
                Err(error) => panic!("{label}: status of {}: {}", container.id, error.chain()),
            }
        }
        runtime.stop_pod("p", StopOptions::forced()).unwrap_or_else(|e| panic!("{label}: stop: {}", e.chain()));
        let stopped = runtime.status_pod("p").expect("status after the stop");
        assert_eq!(stopped.state, Some(State::Stopped), "{label}");
        runtime.delete_pod("p", Default::default()).unwrap_or_else(|e| panic!("{label}: delete: {}", e.chain()));
    }
    if let Err(error) = runtime.delete_pod("p", Default::default()) {
        assert!(error.is_not_found(), "{label}: {}", error.chain());
    }
    match runtime.remove_volume("data") {
        Err(error) if !error.is_not_found() => panic!("{label}: volume: {}", error.chain()),
        _ => {}
    }
    runtime.cleanup().unwrap_or_else(|e| panic!("{label}: cleanup: {}", e.chain()));
    assert_no_leaks(stage, label);
    let runtime = stage.runtime();
    runtime.create_pod(pod(stage, "p")).unwrap_or_else(|e| panic!("{label}: the id is not free: {}", e.chain()));
    runtime.delete_pod("p", Default::default()).unwrap_or_else(|e| panic!("{label}: delete again: {}", e.chain()));
    assert_no_leaks(stage, label);
}

/// A process that was asked to end, or noticed that its runtime died, takes a moment.
pub fn assert_no_leaks(stage: &Stage, label: &str) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let leaks = stage.leaks();
        if leaks.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{label}: left behind: {leaks:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
