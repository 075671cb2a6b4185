//! Damaged, newer and unwritable records: clear errors, live pods untouched (pod contract, §5).

use std::fs;
use std::path::Path;

use hutch_runtime::{DeleteOptions, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::{FailingDisk, FakeHost};

use crate::support::{assert_clean, error, finish, kind, pod_state, running, snapshot};

const POD_RECORDS: [&str; 4] =
    ["config/p/config.json", "run/p/state.json", "run/p/hypervisor.json", "run/p/a/state.json"];

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// P-007: no content of a record makes anything panic.
#[test]
fn p_043_a_damaged_or_missing_record_is_a_store_error_and_never_a_new_pod() {
    let contents: [&[u8]; 6] = [b"", b"{", b"null", b"[1,2]", b"{\"version\":1}", b"\xff\xfe\x00"];
    for record in POD_RECORDS {
        for content in contents {
            let (host, runtime) = running(&["a"]);
            fs::write(host.dir().join(record), content).unwrap();
            let before = snapshot(&host);
            host.calls();
            assert_eq!(kind(runtime.status_pod("p")), ErrorKind::Store, "{record} {content:?}");
            assert_eq!(kind(runtime.start_pod("p")), ErrorKind::Store, "{record} {content:?}");
            assert_eq!(kind(runtime.create_container("p", host.container("b"))), ErrorKind::Store);
            assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Store);
            assert_eq!(kind(runtime.create_pod(host.pod("p", &[]))), ErrorKind::AlreadyExists);
            // P-044: nothing was deleted, rewritten or asked.
            assert_eq!(snapshot(&host), before, "{record} {content:?}");
            assert!(host.calls().is_empty(), "{record} {content:?}");
        }
    }
    let (host, runtime) = running(&["a"]);
    fs::remove_file(host.dir().join("run/p/state.json")).unwrap();
    assert_eq!(kind(runtime.status_pod("p")), ErrorKind::Store);
    assert!(host.leaks().iter().any(|leak| leak == "machine of p"), "a live pod is left alone");
}

/// P-172 for damaged records: force stops, then delete removes.
#[test]
fn p_018_a_damaged_pod_can_be_ended_and_deleted() {
    for record in POD_RECORDS {
        for content in ["", "{}"] {
            let (host, runtime) = running(&["a", "b"]);
            host.set_interfaces(Path::new("/nowhere"), Vec::new());
            fs::write(host.dir().join(record), content).unwrap();
            let machine_known = !record.contains("hypervisor");
            if machine_known {
                assert_eq!(kind(runtime.delete_pod("p", Default::default())), ErrorKind::Store, "its machine lives");
                runtime.stop_pod("p", StopOptions::forced()).unwrap_or_else(|e| panic!("{record}: {e}"));
            } else {
                // Nothing says which process it was.
                host.kill_vm("p");
            }
            runtime.delete_pod("p", Default::default()).unwrap_or_else(|e| panic!("{record}: {}", e.chain()));
            assert_clean(&host);
            runtime.run_pod(host.pod("p", &["a"])).unwrap();
            finish(&host, &runtime);
        }
    }
}

#[test]
fn p_051_records_of_a_newer_program_are_left_to_it() {
    for record in POD_RECORDS {
        let (host, runtime) = running(&["a"]);
        edit(&host.dir().join(record), |value| value["version"] = 99.into());
        let before = snapshot(&host);
        host.calls();
        let refused = error(runtime.status_pod("p"));
        assert_eq!(refused.kind(), ErrorKind::Store, "{record}");
        assert!(refused.chain().contains("99"), "{}", refused.chain());
        if !record.contains("/a/") {
            assert_eq!(kind(runtime.delete_pod("p", DeleteOptions { force: true })), ErrorKind::Store, "{record}");
            assert_eq!(kind(runtime.stop_pod("p", StopOptions::forced())), ErrorKind::Store, "{record}");
            assert_eq!(snapshot(&host), before, "{record}");
            assert!(host.leaks().iter().any(|leak| leak == "machine of p"), "{record}: untouched");
        }
        assert!(runtime.list_pods().unwrap()[0].error.as_ref().unwrap().contains("99"));
    }
}

#[test]
fn a_record_of_another_kind_is_not_taken_for_the_right_one() {
    let (host, runtime) = running(&["a"]);
    fs::copy(host.dir().join("run/p/a/state.json"), host.dir().join("run/p/state.json")).unwrap();
    let refused = error(runtime.status_pod("p"));
    assert!(refused.chain().contains("container-state"), "{}", refused.chain());
}

/// P-044, P-045: reading calls no backend and changes no file, whatever is missing.
#[test]
fn p_044_reading_changes_nothing() {
    let (host, runtime) = running(&["a"]);
    fs::remove_file(host.dir().join("kernel")).unwrap();
    let before = snapshot(&host);
    host.calls();
    runtime.status_pod("p").unwrap();
    runtime.status_container("p", "a").unwrap();
    runtime.list_pods().unwrap();
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    finish(&host, &runtime);
}

/// A disk that fails from the nth write on, for every n: the call fails with a Store error or succeeds, what lived
/// still lives and can be ended, nothing is left.
#[test]
fn p_042_a_disk_that_fills_up_at_any_write_loses_nothing() {
    let mut failures = 0;
    for nth in 1.. {
        let host = FakeHost::new();
        let disk = std::sync::Arc::new(FailingDisk::new(libc::ENOSPC));
        let runtime = Runtime::new(host.store_with(disk.clone()), host.backends(), host.options());
        runtime.run_pod(host.pod("other", &["x"])).unwrap();
        disk.fail_from(nth);
        let created = runtime.create_pod(host.pod("p", &["a"]));
        let started = created.as_ref().map(|_| runtime.start_pod("p"));
        let added = started.as_ref().is_ok_and(|s| s.is_ok()).then(|| {
            runtime
                .create_container("p", host.container("b"))
                .map(drop)
                .and_then(|()| runtime.start_container("p", "b").map(drop))
        });
        let failed: Vec<_> = [
            created.as_ref().err().map(|e| e.kind()),
            started.as_ref().ok().and_then(|s| s.as_ref().err()).map(|e| e.kind()),
            added.as_ref().and_then(|a| a.as_ref().err()).map(|e| e.kind()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let hits = disk.hits();
        disk.heal();
        if hits == 0 {
            assert!(nth > 30, "{nth}");
            break;
        }
        failures += 1;
        assert_eq!(failed, [ErrorKind::Store], "write {nth}");
        assert_eq!(runtime.status_container("other", "x").unwrap().state, Some(State::Running), "write {nth}");
        match runtime.stop_pod("p", StopOptions::forced()) {
            Ok(_) => drop(runtime.delete_pod("p", Default::default()).unwrap()),
            Err(error) => assert!(error.is_not_found(), "write {nth}: {}", error.chain()),
        }
        runtime.delete_pod("other", DeleteOptions { force: true }).unwrap();
        runtime.cleanup().unwrap();
        assert_clean(&host);
    }
    println!("{failures} failing writes");
}

/// EACCES and a read-only root: refused before anything is made; live pods untouched.
#[test]
fn an_unwritable_root_is_a_store_error_and_changes_nothing() {
    for errno in [libc::EACCES, libc::EROFS, libc::EMFILE] {
        let host = FakeHost::new();
        let disk = std::sync::Arc::new(FailingDisk::new(errno));
        let runtime = Runtime::new(host.store_with(disk.clone()), host.backends(), host.options());
        runtime.run_pod(host.pod("p", &["a"])).unwrap();
        host.calls();
        disk.fail_from(1);
        let refused = error(runtime.create_pod(host.pod("q", &[])));
        assert_eq!(refused.kind(), ErrorKind::Store);
        assert!(refused.chain().contains(&std::io::Error::from_raw_os_error(errno).to_string()), "{}", refused.chain());
        assert_eq!(kind(runtime.create_container("p", host.container("b"))), ErrorKind::Store);
        disk.heal();
        assert_eq!(pod_state(&runtime), State::Running);
        finish(&host, &runtime);
    }
}

/// P-012: the state in memory and on disk move together; a write that fails changes neither.
#[test]
fn p_012_a_state_whose_record_cannot_be_written_is_not_taken() {
    let host = FakeHost::new();
    let disk = std::sync::Arc::new(FailingDisk::new(libc::EIO));
    let runtime = Runtime::new(host.store_with(disk.clone()), host.backends(), host.options());
    runtime.create_pod(host.pod("p", &[])).unwrap();
    disk.fail_from(1);
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::Store);
    disk.heal();
    assert_eq!(pod_state(&runtime), State::Ready);
    runtime.start_pod("p").unwrap();
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}
