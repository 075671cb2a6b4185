//! The records on disk (pod contract, §5).

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hutch_runtime::{State, StopOptions};

use crate::support::{finish, new, running, snapshot};

fn relative(host: &hutch_runtime_fakes::FakeHost) -> Vec<String> {
    let root = host.dir().to_owned();
    let path = |path: std::path::PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    snapshot(host).into_iter().map(|(file, _)| path(file)).collect()
}

#[test]
fn p_040_records_lie_where_the_contract_says() {
    let (host, runtime) = running(&["a"]);
    let files = relative(&host);
    for expected in [
        "config/p/a/config.json",
        "config/p/config.json",
        "run/p/a/mounts.json",
        "run/p/a/process.json",
        "run/p/a/state.json",
        "run/p/agent.json",
        "run/p/hypervisor.json",
        "run/p/lock",
        "run/p/network.json",
        "run/p/state.json",
    ] {
        assert!(files.contains(&expected.to_owned()), "{expected} in {files:?}");
    }
    for dir in ["config/p", "config/p/a", "run/p", "run/p/a", "run/p/shared"] {
        let mode = fs::metadata(host.dir().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750, "{dir}");
    }
    finish(&host, &runtime);
}

#[test]
fn p_041_record_files_are_for_their_owner_alone() {
    let (host, runtime) = running(&["a"]);
    for (path, _) in snapshot(&host) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", path.display());
    }
    finish(&host, &runtime);
}

#[test]
fn p_051_every_record_carries_its_version_and_kind() {
    let (host, runtime) = running(&["a"]);
    for (path, bytes) in snapshot(&host) {
        if path.extension().is_some_and(|extension| extension == "json") {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["version"], 1, "{}", path.display());
            assert!(value["record"].is_string() && value.get("data").is_some(), "{}", path.display());
        }
    }
    finish(&host, &runtime);
}

#[test]
fn p_042_no_temporary_file_stays() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    runtime.resume_pod("p").unwrap();
    assert!(relative(&host).iter().all(|file| !file.contains(' ')), "{:?}", relative(&host));
    finish(&host, &runtime);
}

#[test]
fn p_046_containers_are_rebuilt_from_config_and_records() {
    let (host, runtime) = running(&["a", "b"]);
    fs::remove_file(host.dir().join("run/p/b/mounts.json")).unwrap();
    let status = host.runtime().status_pod("p").unwrap();
    assert_eq!(status.containers.len(), 2);
    // A container in no state has no records, and that is not an error.
    fs::remove_dir_all(host.dir().join("run/p/b")).unwrap();
    let status = host.runtime().status_pod("p").unwrap();
    assert_eq!((status.containers[1].state, status.containers[1].pid), (None, 0));
    runtime.delete_container("p", "b").unwrap();
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
}

#[test]
fn p_012_every_transition_is_on_disk_when_the_call_returns() {
    let (host, runtime) = new();
    let recorded = || {
        let text = fs::read(host.dir().join("run/p/state.json")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        value["data"]["state"].as_str().unwrap().parse::<State>().unwrap()
    };
    runtime.create_pod(host.pod("p", &[])).unwrap();
    assert_eq!(recorded(), State::Ready);
    runtime.start_pod("p").unwrap();
    assert_eq!(recorded(), State::Running);
    runtime.pause_pod("p").unwrap();
    assert_eq!(recorded(), State::Paused);
    runtime.resume_pod("p").unwrap();
    assert_eq!(recorded(), State::Running);
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(recorded(), State::Stopped);
    finish(&host, &runtime);
}

#[test]
fn p_050_unknown_endpoints_are_skipped_and_unknown_devices_refused() {
    let (host, runtime) = new();
    host.set_interfaces(&host.namespace("p"), vec![crate::network::endpoint("eth0")]);
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    let path = host.dir().join("run/p/network.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut strange = value["data"]["endpoints"][0].clone();
    strange["type"] = "wormhole".into();
    value["data"]["endpoints"].as_array_mut().unwrap().push(strange);
    fs::write(&path, value.to_string()).unwrap();
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    assert!(host.calls().iter().any(|call| call == "network.detach eth0"));
    runtime.delete_pod("p", Default::default()).unwrap();
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    let devices = r#"{"version":1,"record":"devices","data":[{"type":"wormhole","info":{}}]}"#;
    fs::write(host.dir().join("run/p/a/devices.json"), devices).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap_err().kind(), hutch_runtime::ErrorKind::Store);
    fs::remove_file(host.dir().join("run/p/a/devices.json")).unwrap();
    finish(&host, &runtime);
}
