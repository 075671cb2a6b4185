//! Limits, statistics, freezing, and memory that runs out.

use hutch_agent_proto::{
    ContainerStats, Event, ExitStatus, RemoteErrorKind, Request, ResourceLimits, Response, StdStream,
};
use serde_json::json;

use crate::bundle::{config, run, script, start};
use crate::support::{eventually, Control};

fn stats(control: &mut Control, id: &str) -> ContainerStats {
    match control.call(Request::Stats { id: id.into() }) {
        Ok(Response::Stats(stats)) => *stats,
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_hold_from_the_start() {
    let Some((guest, mut control)) = start() else { return };
    let mut spec = config(&guest, &["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"]);
    spec["linux"]["resources"] = json!({"pids": {"limit": 4}, "memory": {"limit": 64 << 20}});
    let (_, _, err) = script(&guest, &mut control, spec);
    assert!(err.contains("fork"), "{err}");
}

#[test]
fn limits_can_be_changed_and_statistics_follow() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sh", "-c", "n=0; while :; do n=$((n+1)); done"]));
    let limits = ResourceLimits {
        memory: Some(50 << 20),
        pids: Some(9),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        cpu_shares: Some(512),
        ..ResourceLimits::default()
    };
    control.done(Request::UpdateContainer { id: "c".into(), limits });
    let file = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/hutch/c-c/{name}")).unwrap();
    assert_eq!((file("pids.max").trim(), file("cpu.max").trim()), ("9", "20000 100000"));
    let first = stats(&mut control, "c");
    assert_eq!((first.memory_limit_bytes, first.pids), (50 << 20, 1));
    assert!(first.memory_bytes > 0, "{first:?}");
    let seen = std::cell::RefCell::new(control);
    eventually("it uses no time", || stats(&mut seen.borrow_mut(), "c").cpu_usage_us > first.cpu_usage_us);
    let mut control = seen.into_inner();
    let limits = ResourceLimits { cpuset_cpus: Some("nonsense".into()), ..ResourceLimits::default() };
    assert!(control.call(Request::UpdateContainer { id: "c".into(), limits }).is_err());
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

#[test]
fn a_frozen_container_stands_still() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sh", "-c", "while :; do :; done"]));
    control.done(Request::PauseContainer { id: "c".into() });
    let before = stats(&mut control, "c").cpu_usage_us;
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(stats(&mut control, "c").cpu_usage_us, before);
    let process = hutch_agent_proto::ProcessSpec { args: vec!["/bin/true".into()], ..Default::default() };
    let enter = Request::StartProcess { token: "e".into(), container: Some("c".into()), process: Box::new(process) };
    assert_eq!(control.call(enter).expect_err("frozen").kind, RemoteErrorKind::WrongState);
    control.done(Request::ResumeContainer { id: "c".into() });
    let seen = std::cell::RefCell::new(control);
    eventually("it does not go on", || stats(&mut seen.borrow_mut(), "c").cpu_usage_us > before);
    let mut control = seen.into_inner();
    // A frozen container can still be killed.
    control.done(Request::PauseContainer { id: "c".into() });
    control.done(Request::KillContainer { id: "c".into(), signal: 9, all: true });
    assert_eq!(control.wait("c"), ExitStatus::Signal(9));
    control.done(Request::RemoveContainer { id: "c".into(), force: false });
}

#[test]
fn running_out_of_memory_is_reported() {
    let Some((guest, mut control)) = start() else { return };
    let mut spec = config(&guest, &["sh", "-c", "echo up; x=$(yes | head -c 200000000)"]);
    spec["linux"]["resources"] = json!({"memory": {"limit": 20 << 20, "swap": 20 << 20}});
    run(&mut control, "c", spec);
    assert_eq!(guest.read("c", StdStream::Stdout), "up\n");
    control.event(|event| match event {
        Event::OutOfMemory { container } if container == "c" => Some(()),
        _ => None,
    });
    control.wait("c");
    assert!(stats(&mut control, "c").oom_kills > 0);
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

/// The same shares mean the same weight, whether they come with the creation or later.
#[test]
fn shares_of_a_creation_and_of_an_update_weigh_the_same() {
    let Some((guest, mut control)) = start() else { return };
    let weight = |id: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/hutch/c-{id}/cpu.weight")).unwrap();
    for shares in [2, 3, 100, 512, 1024, 10_000, 262_144] {
        let mut spec = config(&guest, &["sleep", "1000"]);
        run(&mut control, "updated", spec.clone());
        spec["linux"]["resources"] = json!({"cpu": {"shares": shares}});
        run(&mut control, "created", spec);
        let limits = ResourceLimits { cpu_shares: Some(shares), ..ResourceLimits::default() };
        control.done(Request::UpdateContainer { id: "updated".into(), limits });
        assert_eq!(weight("created"), weight("updated"), "{shares}");
        for id in ["created", "updated"] {
            control.done(Request::RemoveContainer { id: id.into(), force: true });
        }
    }
}
