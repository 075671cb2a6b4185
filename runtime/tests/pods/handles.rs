//! Handles of pods and containers (pod contract, §1).

use std::collections::BTreeMap;

use hutch_runtime::store::LockMode;
use hutch_runtime::{ErrorKind, PodId};

use crate::support::{finish, kind, new, running};

#[test]
fn a_pod_handle_knows_its_id_annotations_and_containers() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a", "b"]);
    config.annotations.insert("org.example.k".into(), "v".into());
    let pod = runtime.create_pod(config).unwrap();
    assert_eq!((pod.id(), pod.containers()), ("p", ["a".to_owned(), "b".to_owned()].as_slice()));
    assert_eq!(pod.annotation("org.example.k").unwrap(), "v");
    assert_eq!(kind(pod.annotation("absent")), ErrorKind::NoSuchAnnotation);
    let container = pod.container("a").unwrap().expect("a container");
    assert_eq!((container.id(), container.pod()), ("a", "p"));
    assert!(pod.container("x").unwrap().is_none());
    assert_eq!(kind(pod.container("")), ErrorKind::NeedContainerId);
    finish(&host, &runtime);
}

#[test]
fn p_030_merged_annotations_are_persisted_under_the_exclusive_lock() {
    let (host, runtime) = running(&["a"]);
    let pod = runtime.pause_pod("p").unwrap();
    runtime.resume_pod("p").unwrap();
    let clone = pod.clone();
    let added = BTreeMap::from([("org.example.k".to_owned(), "v".to_owned())]);
    pod.merge_annotations(&added).unwrap();
    assert_eq!(clone.annotation("org.example.k").unwrap(), "v", "clones share");
    assert_eq!(host.runtime().status_pod("p").unwrap().annotations["org.example.k"], "v");
    // A holder of the shared lock keeps the merge waiting.
    let id = PodId::new("p").unwrap();
    let mut options = host.options();
    options.lock_timeout = std::time::Duration::from_millis(20);
    let quick = hutch_runtime::Runtime::new(host.store(), host.backends(), options);
    let pod = quick.run_pod(host.pod("q", &[])).unwrap();
    let held = host.store().lock(&PodId::new("q").unwrap(), LockMode::Shared, Default::default()).unwrap();
    assert_eq!(kind(pod.merge_annotations(&added)), ErrorKind::Timeout);
    drop(held);
    pod.merge_annotations(&added).unwrap();
    assert_eq!(
        kind(pod.merge_annotations(&BTreeMap::from([(String::new(), String::new())]))),
        ErrorKind::InvalidConfig
    );
    quick.delete_pod("q", hutch_runtime::DeleteOptions { force: true }).unwrap();
    drop(id);
    finish(&host, &runtime);
}

/// Merges from different handles, at the same time, all end up in the record.
#[test]
fn p_030_concurrent_merges_lose_nothing() {
    const THREADS: usize = 4;
    const MERGES: usize = 25;
    let (host, runtime) = running(&[]);
    let barrier = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (runtime, barrier) = (host.runtime(), &barrier);
            scope.spawn(move || {
                let handle = runtime.get_pod("p").unwrap();
                for number in 0..MERGES {
                    // Each round begins together.
                    barrier.wait();
                    let added = BTreeMap::from([(format!("k{thread}.{number}"), String::from("v"))]);
                    handle.merge_annotations(&added).unwrap();
                }
            });
        }
    });
    assert_eq!(runtime.status_pod("p").unwrap().annotations.len(), THREADS * MERGES);
    finish(&host, &runtime);
}

#[test]
fn a_container_handle_can_overwrite_the_pid() {
    let (host, runtime) = running(&["a"]);
    let pod = runtime.pause_pod("p").unwrap();
    runtime.resume_pod("p").unwrap();
    let mut container = pod.container("a").unwrap().unwrap();
    let token = container.token().to_owned();
    container.set_pid(std::process::id() as i32).unwrap();
    assert_eq!(container.pid(), std::process::id() as i32);
    let stored = std::fs::read_to_string(host.dir().join("run/p/a/process.json")).unwrap();
    assert!(stored.contains(&std::process::id().to_string()) && stored.contains(&token), "{stored}");
    assert_eq!(kind(container.set_pid(-1)), ErrorKind::InvalidConfig);
    container.set_pid(0).unwrap();
    assert_eq!(container.process().unwrap().token, token);
    finish(&host, &runtime);
}
