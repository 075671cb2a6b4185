//! The OCI mapping as callers see it (pod contract, §11.1).

use std::path::PathBuf;
use std::time::Duration;

use hutch_runtime::oci::{write_pid_file, Bundle, OciStatus};
use hutch_runtime::spec::Command;
use hutch_runtime::{ErrorKind, Runtime, State};
use hutch_runtime_fakes::FakeHost;
use serde_json::{json, Value};

use crate::support::{assert_clean, kind, new};

fn bundle_dir(host: &FakeHost, name: &str, args: &[&str], annotations: Value) -> PathBuf {
    let dir = host.dir().join(name);
    std::fs::create_dir_all(dir.join("rootfs")).unwrap();
    let config = json!({
        "ociVersion": "1.2.0",
        "process": {"args": args, "cwd": "/"},
        "root": {"path": "rootfs"},
        "annotations": annotations,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    dir
}

fn create(host: &FakeHost, runtime: &Runtime, id: &str, annotations: Value) -> hutch_runtime::Result<i32> {
    let path = bundle_dir(host, &format!("bundle-{id}"), &["serve"], annotations);
    let base = host.pod("", &[]);
    let pid_file = host.dir().join(format!("{id}.pid"));
    let bundle = Bundle { id, path: &path, base, console: None, detach: true, pid_file: Some(&pid_file) };
    runtime.oci_create(bundle).map(|container| container.pid())
}

fn member_of(pod: &str) -> Value {
    json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod})
}

fn sandbox() -> Value {
    json!({"io.kubernetes.cri.container-type": "sandbox"})
}

#[test]
fn p_192_ids_are_unique_on_the_host_and_lead_to_their_pod() {
    let (host, runtime) = new();
    create(&host, &runtime, "pod", sandbox()).unwrap();
    create(&host, &runtime, "member", member_of("pod")).unwrap();
    for id in ["pod", "member"] {
        assert_eq!(kind(create(&host, &runtime, id, json!({}))), ErrorKind::AlreadyExists, "{id}");
        assert_eq!(runtime.find_container(id).unwrap().pod, "pod");
    }
    assert_eq!(kind(runtime.find_container("other")), ErrorKind::NoSuchContainer);
    assert_eq!(kind(create(&host, &runtime, "lost", member_of("nowhere"))), ErrorKind::NoSuchPod);
    runtime.oci_delete("pod", true).unwrap();
    assert_clean(&host);
}

/// One id, wanted by many at once, in different pods: the check and the creation are one step.
#[test]
fn p_192_of_many_creations_with_one_id_one_succeeds() {
    let (host, runtime) = new();
    let pods = ["p1", "p2", "p3", "p4"];
    for pod in pods {
        create(&host, &runtime, pod, sandbox()).unwrap();
    }
    for round in 0..5 {
        let id = format!("c{round}");
        let barrier = std::sync::Barrier::new(pods.len() + 1);
        let made = std::thread::scope(|scope| {
            let others = pods.map(|pod| {
                let (host, id, barrier) = (&host, &id, &barrier);
                scope.spawn(move || {
                    let runtime = host.runtime();
                    let path = bundle_dir(host, &format!("b-{pod}-{id}"), &["serve"], member_of(pod));
                    barrier.wait();
                    let base = host.pod("", &[]);
                    let bundle = Bundle { id, path: &path, base, console: None, detach: true, pid_file: None };
                    runtime.oci_create(bundle).map(drop)
                })
            });
            barrier.wait();
            let own = create(&host, &host.runtime(), &id, json!({})).map(drop);
            let results = others.map(|other| other.join().unwrap());
            results.into_iter().chain([own]).collect::<Vec<_>>()
        });
        assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1, "{made:?}");
        for refused in made.into_iter().filter_map(Result::err) {
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{}", refused.chain());
        }
        runtime.oci_delete(&id, true).unwrap();
    }
    for pod in pods {
        runtime.oci_delete(pod, true).unwrap();
    }
    assert_clean(&host);
}

/// P-193: what decides. P-194: what happens.
#[test]
fn p_194_a_sandbox_is_a_pod_and_a_member_is_a_container_in_it() {
    let (host, runtime) = new();
    create(&host, &runtime, "pod", sandbox()).unwrap();
    let status = runtime.status_pod("pod").unwrap();
    assert_eq!(status.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["pod"]);
    runtime.oci_start("pod").unwrap();
    assert_eq!(runtime.status_pod("pod").unwrap().state, Some(State::Running));
    create(&host, &runtime, "m", member_of("pod")).unwrap();
    runtime.oci_start("m").unwrap();
    assert_eq!(runtime.status_container("pod", "m").unwrap().state, Some(State::Running));
    assert_eq!(kind(runtime.oci_delete("m", false)), ErrorKind::WrongState);
    assert_eq!(kind(runtime.oci_delete("pod", false)), ErrorKind::WrongState);
    runtime.oci_delete("m", true).unwrap();
    assert_eq!(runtime.status_pod("pod").unwrap().containers.len(), 1);
    runtime.kill_container("pod", "pod", 9, true).unwrap();
    runtime.oci_delete("pod", false).unwrap();
    assert_eq!(kind(runtime.oci_delete("pod", true)), ErrorKind::NoSuchContainer);
    assert_clean(&host);
}

#[test]
fn p_195_states_have_their_oci_names() {
    let (host, runtime) = new();
    let status = || runtime.oci_state("c").unwrap().status;
    create(&host, &runtime, "c", json!({"org.example.k": "v"})).unwrap();
    assert_eq!(status(), OciStatus::Created);
    runtime.oci_start("c").unwrap();
    assert_eq!(status(), OciStatus::Running);
    runtime.pause_pod("c").unwrap();
    assert_eq!(status(), OciStatus::Paused);
    runtime.resume_pod("c").unwrap();
    let state = runtime.oci_state("c").unwrap();
    let printed = serde_json::to_value(&state).unwrap();
    assert_eq!((printed["status"].as_str(), printed["id"].as_str()), (Some("running"), Some("c")));
    assert!(printed["pid"].as_i64().unwrap() > 0);
    assert_eq!(printed["bundle"], host.dir().join("bundle-c").canonicalize().unwrap().to_str().unwrap());
    assert_eq!(printed["annotations"], json!({"org.example.k": "v"}));
    runtime.kill_container("c", "c", 15, false).unwrap();
    let state = runtime.oci_state("c").unwrap();
    assert_eq!((state.status, state.pid), (OciStatus::Stopped, None));
    runtime.oci_delete("c", false).unwrap();
    assert_clean(&host);
}

#[test]
fn p_197_the_pid_file_is_written_last_and_replaces_an_older_one() {
    let (host, runtime) = new();
    std::fs::write(host.dir().join("c.pid"), "an older one").unwrap();
    let pid = {
        let _recording = hutch_runtime::fault::arm("", 1, hutch_runtime::fault::Action::Error);
        let pid = create(&host, &runtime, "c", json!({})).unwrap();
        assert_eq!(hutch_runtime::fault::passed().last().map(String::as_str), Some("pid-file"));
        pid
    };
    assert_eq!(std::fs::read_to_string(host.dir().join("c.pid")).unwrap(), pid.to_string());
    runtime.oci_start("c").unwrap();
    let exec = Command { args: vec!["serve".into()], detach: true, ..Command::default() };
    let file = host.dir().join("exec.pid");
    let (process, exit) = runtime.oci_exec("c", &exec, Default::default(), Some(&file)).unwrap();
    assert_eq!((std::fs::read_to_string(&file).unwrap(), exit), (process.pid.to_string(), None));
    runtime.oci_delete("c", true).unwrap();
    // One that cannot be written takes the creation back.
    let path = bundle_dir(&host, "bundle-d", &["serve"], json!({}));
    let nowhere = host.dir().join("no/such/dir/pid");
    let base = host.pod("", &[]);
    let bundle = Bundle { id: "d", path: &path, base, console: None, detach: true, pid_file: Some(&nowhere) };
    assert_eq!(kind(runtime.oci_create(bundle)), ErrorKind::InvalidConfig);
    assert_clean(&host);
    assert!(write_pid_file(std::path::Path::new("/"), 1).is_err());
}

#[test]
fn p_198_exec_waits_and_tells_the_status_and_run_is_create_start_wait_delete() {
    let (host, runtime) = new();
    create(&host, &runtime, "c", json!({})).unwrap();
    runtime.oci_start("c").unwrap();
    let command = Command { args: vec!["exit".into(), "41".into()], ..Command::default() };
    let (process, exit) = runtime.oci_exec("c", &command, Default::default(), None).unwrap();
    assert_eq!(exit.unwrap().shell_code(), 41);
    assert_eq!(kind(runtime.wait_process("c", "c", &process.token, Duration::ZERO)), ErrorKind::NoSuchProcess);
    runtime.oci_delete("c", true).unwrap();
    let run = |id: &str, args: &[&str], detach: bool| {
        let path = bundle_dir(&host, &format!("run-{id}"), args, json!({}));
        let base = host.pod("", &[]);
        runtime.oci_run(Bundle { id, path: &path, base, console: None, detach, pid_file: None })
    };
    assert_eq!(run("r", &["exit", "7"], false).unwrap().unwrap().code, Some(7));
    assert_clean(&host);
    assert!(run("d", &["serve"], true).unwrap().is_none());
    assert_eq!(runtime.oci_state("d").unwrap().status, OciStatus::Running);
    runtime.oci_delete("d", true).unwrap();
    assert_eq!(kind(run("m", &["missing"], false)), ErrorKind::Backend);
    assert_clean(&host);
}

/// SIGTERM through the mapping is SIGTERM: nothing is stopped or killed after it (P-199).
#[test]
fn p_199_a_term_signal_is_no_stop() {
    let (host, runtime) = new();
    let path = bundle_dir(&host, "b", &["deaf"], json!({}));
    let base = host.pod("", &[]);
    runtime.oci_create(Bundle { id: "c", path: &path, base, console: None, detach: true, pid_file: None }).unwrap();
    runtime.oci_start("c").unwrap();
    let signal = hutch_runtime::spec::parse_signal("TERM").unwrap();
    runtime.kill_container("c", "c", signal, false).unwrap();
    assert_eq!(runtime.oci_state("c").unwrap().status, OciStatus::Running);
    runtime.oci_delete("c", true).unwrap();
    assert_clean(&host);
}

#[test]
fn p_007_a_bundle_without_or_with_a_broken_configuration_is_refused() {
    let (host, runtime) = new();
    let dir = host.dir().join("broken");
    std::fs::create_dir(&dir).unwrap();
    for text in [None, Some(""), Some("{}"), Some("[]"), Some(r#"{"process":{"args":[]},"root":{"path":"x"}}"#)] {
        if let Some(text) = text {
            std::fs::write(dir.join("config.json"), text).unwrap();
        }
        let base = host.pod("", &[]);
        let bundle = Bundle { id: "c", path: &dir, base, console: None, detach: true, pid_file: None };
        assert_eq!(kind(runtime.oci_create(bundle)), ErrorKind::InvalidConfig, "{text:?}");
    }
    assert_clean(&host);
}

/// The search reads no configuration but that of the pod that may have the container.
#[test]
fn p_192_a_search_reads_only_the_pod_that_it_finds() {
    let (host, runtime) = new();
    for id in ["a", "b"] {
        create(&host, &runtime, id, sandbox()).unwrap();
        create(&host, &runtime, &format!("{id}-member"), member_of(id)).unwrap();
    }
    let config = host.dir().join("config/a/config.json");
    let text = std::fs::read(&config).unwrap();
    // A configuration that cannot be read would be reported, were it read.
    std::fs::write(&config, "damaged").unwrap();
    assert_eq!(runtime.find_container("b-member").unwrap().pod, "b");
    assert_eq!(kind(runtime.find_container("a-member")), ErrorKind::NoSuchContainer);
    std::fs::write(&config, text).unwrap();
    assert_eq!(runtime.find_container("a-member").unwrap().pod, "a");
    runtime.oci_delete("a", true).unwrap();
    runtime.oci_delete("b", true).unwrap();
    assert_clean(&host);
}
