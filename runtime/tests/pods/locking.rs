//! The pod lock, between runtimes that are like processes (pod contract, §4). Real processes are in the crash tests.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hutch_runtime::store::{LockMode, PodLock};
use hutch_runtime::{ErrorKind, PodId, Result};
use hutch_runtime_fakes::FakeHost;

use crate::support::{error, finish, kind, new, running};

fn lock(host: &FakeHost, mode: LockMode, timeout: Duration) -> Result<Option<PodLock>> {
    host.store().lock(&PodId::new("p").unwrap(), mode, timeout)
}

#[test]
fn p_020_readers_share_and_a_writer_is_alone() {
    let (host, runtime) = running(&[]);
    let brief = Duration::from_millis(20);
    let one = lock(&host, LockMode::Shared, brief).unwrap();
    let two = lock(&host, LockMode::Shared, brief).unwrap();
    assert_eq!(kind(lock(&host, LockMode::Exclusive, brief)), ErrorKind::Timeout);
    drop((one, two));
    let alone = lock(&host, LockMode::Exclusive, brief).unwrap();
    assert_eq!(kind(lock(&host, LockMode::Shared, brief)), ErrorKind::Timeout);
    drop(alone);
    finish(&host, &runtime);
}

#[test]
fn p_022_locking_an_unknown_pod_makes_nothing() {
    let (host, runtime) = new();
    assert_eq!(kind(lock(&host, LockMode::Exclusive, Duration::ZERO)), ErrorKind::NoSuchPod);
    assert_eq!(kind(lock(&host, LockMode::Shared, Duration::ZERO)), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::NoSuchPod);
    assert!(!host.dir().join("run").exists());
}

/// A waiter ends up with the lock of the file that is there now, or with NoSuchPod; never with an orphan.
#[test]
fn p_026_a_waiter_does_not_get_the_lock_of_a_deleted_pod() {
    let (host, runtime) = running(&[]);
    let held = lock(&host, LockMode::Exclusive, Duration::ZERO).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| kind(lock(&host, LockMode::Exclusive, Duration::from_secs(60))));
        std::thread::sleep(Duration::from_millis(30));
        // A deletion: the files go while the lock is held.
        fs::remove_file(host.dir().join("config/p/config.json")).unwrap();
        fs::remove_dir_all(host.dir().join("run/p")).unwrap();
        drop(held);
        assert_eq!(waiter.join().unwrap(), ErrorKind::NoSuchPod);
    });
    // Replaced by another file of the same name: the waiter locks that one.
    runtime.cleanup().unwrap();
    host.kill_vm("p");
    runtime.run_pod(host.pod("p", &[])).unwrap();
    let held = lock(&host, LockMode::Exclusive, Duration::ZERO).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock(&host, LockMode::Exclusive, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(30));
        let path = host.dir().join("run/p/lock");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(held);
        let got = waiter.join().unwrap().unwrap();
        assert_eq!(
            kind(lock(&host, LockMode::Shared, Duration::from_millis(10))),
            ErrorKind::Timeout,
            "it is the new one"
        );
        drop(got);
    });
}

#[test]
fn p_028_a_lock_that_is_not_free_in_time_is_a_timeout_that_names_the_pod() {
    let (host, runtime) = running(&[]);
    let held = lock(&host, LockMode::Exclusive, Duration::ZERO).unwrap();
    let start = Instant::now();
    let late = error(lock(&host, LockMode::Exclusive, Duration::from_millis(50)));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert!(late.to_string().contains("pod p"), "{late}");
    drop(held);
    assert_eq!(hutch_runtime::Options::default().lock_timeout, Duration::from_secs(60));
    finish(&host, &runtime);
}

/// A release wakes the waiter; it does not sleep through a poll interval.
#[test]
fn p_028_a_waiter_is_woken_by_the_release() {
    let (host, runtime) = running(&[]);
    // A poll would come a tenth of a second after the release. A busy machine may wake the waiter later than that, but not
    // every time.
    let mut quickest = Duration::MAX;
    for _ in 0..40 {
        let held = lock(&host, LockMode::Exclusive, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let got = lock(&host, LockMode::Exclusive, Duration::from_secs(60)).unwrap();
                (Instant::now(), got)
            });
            // Long enough for the fall-back timer to have grown to a quarter of a second; it ends 111 ms after this.
            std::thread::sleep(Duration::from_millis(400));
            let released = Instant::now();
            drop(held);
            let (woken, _got) = waiter.join().unwrap();
            quickest = quickest.min(woken.saturating_duration_since(released));
        });
        if quickest < Duration::from_millis(50) {
            break;
        }
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    finish(&host, &runtime);
}

/// P-021: the file is there, and locked, before anything else of the pod is.
#[test]
fn p_021_a_new_pods_lock_is_held_from_the_start() {
    let (host, _) = new();
    let id = PodId::new("p").unwrap();
    let held = host.store().lock_new(&id, Duration::from_secs(1)).unwrap();
    let late = host.store().lock_new(&id, Duration::from_millis(10));
    assert_eq!(kind(late), ErrorKind::Timeout);
    assert_eq!(kind(lock(&host, LockMode::Shared, Duration::from_millis(10))), ErrorKind::Timeout);
    drop(held);
}

#[test]
fn p_031_the_locks_descriptor_is_closed_on_exec() {
    let (host, runtime) = running(&[]);
    let held = lock(&host, LockMode::Exclusive, Duration::ZERO).unwrap();
    let path = host.dir().join("run/p/lock").canonicalize().unwrap();
    let mut found = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info =
                fs::read_to_string(format!("/proc/self/fdinfo/{}", entry.file_name().to_string_lossy())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC, 0, "{info}");
            found += 1;
        }
    }
    assert_eq!(found, 1);
    // And so a child does not keep it.
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    drop(held);
    drop(lock(&host, LockMode::Exclusive, Duration::from_secs(60)).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(std::io::stdin().as_fd().try_clone_to_owned().is_ok());
    finish(&host, &runtime);
}

/// P-023: no call holds two pods, so no order of calls can block for ever.
#[test]
fn p_023_calls_on_several_pods_never_wait_for_each_other_in_a_circle() {
    let (host, _) = new();
    for id in ["x", "y", "z"] {
        host.runtime().run_pod(host.pod(id, &["c"])).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let host = &host;
            scope.spawn(move || {
                let runtime = host.runtime();
                let ids = ["x", "y", "z"];
                for round in 0..15 {
                    let id = ids[(round + thread) % 3];
                    let _ = runtime.pause_pod(id);
                    let _ = runtime.list_pods();
                    let _ = runtime.resume_pod(ids[(round + 2 * thread) % 3]);
                    runtime.status_pod(id).unwrap();
                }
            });
        }
    });
    for id in ["x", "y", "z"] {
        host.runtime().delete_pod(id, hutch_runtime::DeleteOptions { force: true }).unwrap();
    }
    crate::support::assert_clean(&host);
}
