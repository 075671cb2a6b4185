//! Tests of records, directories and locks, with numbers of the contract.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;

use super::*;
use crate::error::ErrorKind;
use crate::id::ContainerId;
use crate::spec::PodConfig;
use crate::state::State;

fn store() -> (tempfile::TempDir, Store, PodDirs) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("config"), dir.path().join("run"));
    let pod = store.pod(&PodId::new("p").unwrap());
    store.make_run_dir(&PodId::new("p").unwrap()).unwrap();
    store.make_config_dir(&PodId::new("p").unwrap()).unwrap();
    (dir, store, pod)
}

#[test]
fn a_record_comes_back_as_it_was() {
    let (_dir, store, pod) = store();
    assert!(store.get(&pod.state_record()).unwrap().is_none());
    let mut state = PodState::new(State::Running);
    state.blocks.take();
    state.reason = Some("because".into());
    store.put(&pod.state_record(), &state).unwrap();
    assert_eq!(store.need(&pod.state_record()).unwrap(), state);
    store.delete(&pod.state_record()).unwrap();
    store.delete(&pod.state_record()).unwrap();
    assert_eq!(store.need(&pod.state_record()).unwrap_err().kind(), ErrorKind::Store);
}

#[test]
fn p_040_directories_have_their_mode_whatever_the_mask() {
    let (dir, store, pod) = store();
    for path in [pod.run_dir(), pod.config_dir(), &dir.path().join("run")] {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o750, "{}", path.display());
    }
    store.make_dir(pod.run_dir()).unwrap();
    fs::write(pod.run_dir().join("file"), "").unwrap();
    assert!(store.make_dir(&pod.run_dir().join("file")).is_err(), "a file is not a directory");
}

#[test]
fn p_042_a_write_that_fails_leaves_the_old_record_and_no_temporary_file() {
    let (_dir, store, pod) = store();
    let record = pod.state_record();
    store.put(&record, &PodState::new(State::Ready)).unwrap();
    for point in ["pod-state:put", "pod-state:written"] {
        let _armed = crate::fault::arm(point, 1, crate::fault::Action::Error);
        assert!(store.put(&record, &PodState::new(State::Running)).is_err());
        assert_eq!(store.need(&record).unwrap().state, State::Ready, "{point}");
        assert_eq!(fs::read_dir(pod.run_dir()).unwrap().count(), 2, "{point}: the record and the marker");
    }
}

/// Runs one of the ignored tests below as root of a user and mount namespace of its own, after `setup` (shell; `$1` is
/// a directory).
fn inside(test: &str, setup: &str, dir: &Path) -> String {
    let script = format!("set -e; cd \"$1\"; {setup} exec \"$2\" --exact store::tests::{test} --ignored --nocapture");
    let me = std::env::current_exe().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .args([dir, &me])
        .env("HUTCH_TEST_DIR", dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("checked inside"), "{text}");
    text
}

fn test_dir() -> std::path::PathBuf {
    std::env::var_os("HUTCH_TEST_DIR").expect("run by another test").into()
}

#[test]
fn p_042_a_disk_without_space_is_an_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    inside("inside_a_full_file_system", "mount -t tmpfs -o size=64k tmpfs .;", dir.path());
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_a_full_file_system() {
    let store = Store::new(test_dir().join("config"), test_dir().join("run"));
    let pod = store.pod(&PodId::new("p").unwrap());
    store.make_dir(pod.run_dir()).unwrap();
    let record = pod.state_record();
    store.put(&record, &PodState::new(State::Ready)).unwrap();
    let large = PodState { reason: Some("x".repeat(100 << 10)), ..PodState::new(State::Running) };
    for _ in 0..3 {
        let Error::Store { source: StoreCause::Write(e), path } = store.put(&record, &large).unwrap_err() else {
            panic!("another error")
        };
        assert_eq!((e.raw_os_error(), path.as_path()), (Some(libc::ENOSPC), record.path()));
        assert_eq!(store.need(&record).unwrap().state, State::Ready);
        assert_eq!(fs::read_dir(pod.run_dir()).unwrap().count(), 1, "no temporary file stays");
    }
    println!("checked inside");
}

#[test]
fn a_read_only_root_is_an_error_that_names_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let setup = "mkdir -p run/p; marker='{\"version\":1,\"record\":\"root\",\"data\":{\"kind\":\"run\",\"partner\":'; \
                 echo \"$marker\\\"$PWD/config\\\"}}\" > run/.hutch-root.json; : > run/p/.hutch-pod.json; \
                 mount --bind run run; mount -o remount,bind,ro run;";
    inside("inside_a_read_only_root", setup, dir.path());
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_a_read_only_root() {
    let store = Store::new(test_dir().join("config"), test_dir().join("run"));
    let pod = store.pod(&PodId::new("p").unwrap());
    let errors = [
        store.put(&pod.state_record(), &PodState::new(State::Ready)).unwrap_err(),
        store.make_dir(&pod.shared_dir()).unwrap_err(),
        store.lock_new(&PodId::new("q").unwrap(), std::time::Duration::ZERO).unwrap_err(),
        store.lock_new(&PodId::new("p").unwrap(), std::time::Duration::ZERO).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(error.chain().contains("Read-only file system"), "{}", error.chain());
    }
    println!("checked inside");
}

#[test]
fn p_051_newer_and_foreign_records_are_told_apart() {
    let (_dir, store, pod) = store();
    let record = pod.state_record();
    let cause = |text: &str| {
        fs::write(record.path(), text).unwrap();
        match store.get(&record).unwrap_err() {
            Error::Store { source, .. } => source,
            other => panic!("{other:?}"),
        }
    };
    let newer = cause(r#"{"version":2,"record":"pod-state","data":{"anything":"else"}}"#);
    assert!(matches!(newer, StoreCause::Newer { found: 2, known: RECORD_VERSION }), "{newer:?}");
    let other = cause(r#"{"version":1,"record":"process","data":{}}"#);
    assert!(matches!(other, StoreCause::WrongRecord { .. }), "{other:?}");
    for text in ["", "{}", "{\"version\":1,\"record\":\"pod-state\"}", "{\"version\":-1,\"record\":\"pod-state\"}"] {
        assert!(matches!(cause(text), StoreCause::Parse(_)), "{text:?}");
    }
    let bad_state = cause(r#"{"version":1,"record":"pod-state","data":{"state":""}}"#);
    assert!(matches!(bad_state, StoreCause::Parse(_)), "P-010: the empty string is not a state");
}

#[test]
fn p_050_device_lists_round_trip_and_unknown_tags_are_errors() {
    use crate::spec::{BlockVolume, Device, DeviceInfo, DeviceKind};
    let (_dir, store, pod) = store();
    let container = pod.container(&ContainerId::new("c").unwrap());
    store.make_dir(container.run_dir()).unwrap();
    let device = |kind| Device {
        kind,
        info: DeviceInfo::default(),
        vmm_id: Some("id".into()),
        index: Some(3),
        volume: Some(BlockVolume { fstype: "ext4".into(), read_only: true }),
    };
    let list = DevicesRecord([DeviceKind::Vfio, DeviceKind::Block, DeviceKind::Generic].map(device).to_vec());
    store.put(&container.devices_record(), &list).unwrap();
    assert_eq!(store.need(&container.devices_record()).unwrap(), list);
    let text = fs::read_to_string(container.devices_record().path()).unwrap();
    for tag in ["vfio", "block", "generic"] {
        assert!(text.contains(&format!("\"type\":\"{tag}\"")), "{text}");
    }
    fs::write(container.devices_record().path(), text.replace("\"vfio\"", "\"warp\"")).unwrap();
    assert_eq!(store.get(&container.devices_record()).unwrap_err().kind(), ErrorKind::Store);
}

#[test]
fn p_050_known_endpoints_round_trip_and_unknown_ones_are_skipped() {
    use crate::network::{Endpoint, EndpointKind};
    let (_dir, store, pod) = store();
    let endpoint = |name: &str, kind| Endpoint {
        kind,
        name: name.into(),
        mac: "02::".into(),
        mtu: 1500,
        addresses: vec!["fd00::1/64".into()],
        routes: Vec::new(),
        neighbours: Vec::new(),
    };
    let endpoints = vec![
        endpoint("a", EndpointKind::Tap { tap: "t".into(), keep_ingress: true }),
        endpoint("b", EndpointKind::Tap { tap: "later".into(), keep_ingress: false }),
        endpoint("c", EndpointKind::Tap { tap: "u".into(), keep_ingress: false }),
    ];
    let record = NetworkRecord { namespace: Some("/n".into()), created: true, endpoints };
    store.put(&pod.network_record(), &record).unwrap();
    assert_eq!(store.need(&pod.network_record()).unwrap(), record);
    let path = pod.network_record().path().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    let mut unknown: serde_json::Value = serde_json::from_str(&text).unwrap();
    unknown["data"]["endpoints"][1]["type"] = "physical".into();
    fs::write(&path, unknown.to_string()).unwrap();
    let names: Vec<String> = store.need(&pod.network_record()).unwrap().endpoints.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["a", "c"]);
    fs::write(&path, text.replace("\"tap\":\"t\"", "\"tap\":7")).unwrap();
    assert!(store.get(&pod.network_record()).is_err(), "a known one that is damaged is not skipped");
}

#[test]
fn p_014_only_directories_with_a_config_record_are_pods() {
    let (dir, store, pod) = store();
    assert!(store.pods().unwrap().is_empty());
    store.put(&pod.config_record(), &PodConfig::default()).unwrap();
    fs::create_dir(dir.path().join("config/half")).unwrap();
    fs::write(dir.path().join("config/file"), "").unwrap();
    let ids: Vec<String> = store.pods().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["p"]);
    assert_eq!(store.all_ids().unwrap().len(), 2);
}

#[test]
fn p_052_socket_paths_of_108_bytes_and_more_are_refused() {
    let room = 107 - "/vm-00000000.sock".len();
    for (len, fits) in [(room, true), (room + 1, false)] {
        let root = format!("/{}", "r".repeat(len - 3));
        let store = Store::new("/c", &root);
        let pod = store.pod(&PodId::new("p").unwrap());
        assert_eq!(pod.run_dir().as_os_str().len(), len);
        assert_eq!(pod.check_socket_paths().is_ok(), fits, "{len}");
        if fits {
            let socket = pod.control_socket("1234abcd-0000-4000-8000-000000000000").unwrap();
            assert!(socket.ends_with("vm-1234abcd.sock") && socket.as_os_str().len() == 107);
        }
    }
}

#[test]
fn p_104_removing_a_tree_follows_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let (precious, doomed) = (dir.path().join("precious"), dir.path().join("doomed"));
    fs::create_dir_all(doomed.join("sub/deeper")).unwrap();
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("data"), "x").unwrap();
    symlink(&precious, doomed.join("link")).unwrap();
    symlink(precious.join("data"), doomed.join("sub/file")).unwrap();
    fs::write(doomed.join("sub/deeper/f"), "").unwrap();
    remove_tree(&doomed).unwrap();
    assert!(!doomed.exists());
    assert_eq!(fs::read_to_string(precious.join("data")).unwrap(), "x");
    remove_tree(&doomed).unwrap();
    symlink(&precious, &doomed).unwrap();
    assert!(remove_tree(&doomed).is_err(), "a link in place of the directory is not followed");
    assert!(precious.join("data").exists());
}

/// In a user and mount namespace of its own, since mounting needs rights.
#[test]
fn p_104_removing_a_tree_crosses_no_mount() {
    let dir = tempfile::tempdir().unwrap();
    let setup = "mkdir -p volume doomed/dir; echo x > volume/data; echo y > file; : > doomed/f; \
                 mount --bind volume doomed/dir; mount --bind file doomed/f;";
    inside("inside_a_mount_namespace", setup, dir.path());
    assert_eq!(fs::read_to_string(dir.path().join("volume/data")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "y\n");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_a_mount_namespace() {
    let dir = test_dir();
    let doomed = dir.join("doomed");
    let error = remove_tree(&doomed).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EBUSY)), "{error}");
    assert_eq!(fs::read_to_string(doomed.join("dir/data")).unwrap(), "x\n");
    let store = Store::new(dir.join("c"), dir.join("r"));
    let Error::Store { source, .. } = store.remove_dir(&doomed).unwrap_err() else { panic!("another error") };
    assert!(matches!(source, StoreCause::Mounted), "{source:?}");
    println!("checked inside");
}

#[test]
fn tokens_of_execs_are_found_among_the_files() {
    let (_dir, store, pod) = store();
    let container = pod.container(&ContainerId::new("c").unwrap());
    assert!(container.exec_tokens().unwrap().is_empty());
    store.make_dir(&container.exec_dir()).unwrap();
    for name in ["t2.json", "t1.json", "t1.exit.json", "t3.json 7.0", "other"] {
        fs::write(container.exec_dir().join(name), "").unwrap();
    }
    assert_eq!(container.exec_tokens().unwrap(), ["t1", "t2"]);
}

/// Shims are each PID 1 of a namespace of their own, so a PID does not make a name unique. All of them record the end
/// of the same machine.
#[test]
fn writers_of_one_record_never_remove_each_others_files() {
    let (_dir, store, pod) = store();
    let path = pod.failure_record().path().to_owned();
    // The name that a process with the same PID once used for its unfinished file.
    let others = [format!("failure.json {}", std::process::id()), format!("state.json {}.0", std::process::id())];
    for name in &others {
        fs::write(pod.run_dir().join(name), "another's").unwrap();
    }
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (path, store, pod) = (&path, &store, &pod);
            scope.spawn(move || {
                for _ in 0..50 {
                    let reason = format!("writer {writer}");
                    let record = FailureRecord { reason, at: crate::timestamp::Timestamp::now() };
                    write_record_if_absent(path, &record).unwrap();
                    store.put(&pod.state_record(), &PodState::new(State::Running)).unwrap();
                }
            });
        }
    });
    assert!(store.need(&pod.failure_record()).unwrap().reason.starts_with("writer"));
    for name in &others {
        assert_eq!(fs::read_to_string(pod.run_dir().join(name)).unwrap(), "another's");
    }
    assert_eq!(fs::read_dir(pod.run_dir()).unwrap().count(), 5, "two records, the marker, the files of others");
}
