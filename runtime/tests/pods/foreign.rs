//! Nothing that hutch did not make is ever removed, and no pod of other roots is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hutch_runtime::{DeleteOptions, Error, ErrorKind, Runtime, State, StopOptions, Store, StoreCause};
use hutch_runtime_fakes::FakeHost;

use crate::support::{assert_clean, error, finish, kind, new, pod_state, running, snapshot};

/// Every entry of a tree with its mode and content.
fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        let content = match metadata.file_type() {
            kind if kind.is_dir() => {
                found.extend(fingerprint(&path));
                Vec::new()
            }
            kind if kind.is_symlink() => fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => fs::read(&path).expect("a file"),
            _ => Vec::new(),
        };
        found.insert(path, (metadata.mode(), content));
    }
    found
}

/// A tree like `/home`: files, links, sockets, and names that hutch uses too.
fn home_like(root: &Path) {
    fs::create_dir_all(root.join("alice/.ssh")).unwrap();
    fs::write(root.join("alice/.ssh/id"), "secret").unwrap();
    fs::write(root.join("alice/config.json"), r#"{"mine":true}"#).unwrap();
    fs::write(root.join("alice/lock"), "").unwrap();
    fs::write(root.join("alice/state.json"), "not a record").unwrap();
    fs::write(root.join("alice/my notes"), "with a blank").unwrap();
    fs::create_dir_all(root.join("alice/shared/photos")).unwrap();
    symlink("/etc", root.join("alice/etc")).unwrap();
    drop(UnixListener::bind(root.join("alice/vm-00000000.sock")).unwrap());
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("bob/shared")).unwrap();
    fs::write(root.join("bob/lock"), "").unwrap();
    fs::write(root.join("bob/shared/file"), "x").unwrap();
    symlink(root.join("alice"), root.join("link")).unwrap();
    fs::write(root.join("file"), "x").unwrap();
}

fn over(host: &FakeHost, config: &Path, run: &Path) -> Runtime {
    Runtime::new(Store::new(config, run), host.backends(), host.options())
}

/// Every call that could remove something, for every name in the tree and a new one.
fn try_everything(host: &FakeHost, runtime: &Runtime) {
    for id in ["alice", "bob", "empty", "link", "file", "new"] {
        for result in [
            runtime.create_pod(host.pod(id, &["a"])).map(drop),
            runtime.stop_pod(id, StopOptions::forced()).map(drop),
            runtime.delete_pod(id, DeleteOptions { force: false }).map(drop),
            runtime.delete_pod(id, DeleteOptions { force: true }).map(drop),
        ] {
            let refused = result.expect_err(id);
            assert!(matches!(refused.kind(), ErrorKind::Store | ErrorKind::NoSuchPod), "{id}: {}", refused.chain());
        }
    }
    let _ = runtime.cleanup();
    let _ = runtime.list_pods();
}

#[test]
fn a_root_with_the_files_of_others_keeps_every_byte() {
    for (config_is_home, run_is_home) in [(true, false), (false, true), (true, true)] {
        let (host, _) = new();
        let root = |home: bool, name: &str| {
            let dir = host.dir().join(name);
            if home {
                home_like(&dir);
            }
            dir
        };
        let (config, run) = (root(config_is_home, "home1"), root(run_is_home, "home2"));
        let before = fingerprint(host.dir());
        let runtime = over(&host, &config, &run);
        host.calls();
        let refused = error(runtime.cleanup());
        assert_eq!(refused.kind(), ErrorKind::Store);
        let text = refused.chain();
        assert!(text.contains("not made by hutch") && text.contains("--root"), "{text}");
        try_everything(&host, &runtime);
        assert_eq!(fingerprint(host.dir()), before);
        assert!(host.calls().is_empty(), "no process was looked for, none was killed");
    }
}

/// The same beside pods: the roots are hutch's, what lies in them is not.
#[test]
fn directories_of_others_between_those_of_pods_keep_every_byte() {
    let (host, runtime) = running(&["a"]);
    home_like(&host.dir().join("config"));
    home_like(&host.dir().join("run"));
    let others = || {
        let mut all = fingerprint(host.dir());
        all.retain(|path, _| {
            !path.starts_with(host.dir().join("config/p")) && !path.starts_with(host.dir().join("run/p"))
        });
        all
    };
    let before = others();
    for id in ["alice", "bob", "empty"] {
        let refused = error(runtime.create_pod(host.pod(id, &["a"])));
        assert!(matches!(refused, Error::Store { source: StoreCause::Foreign, .. }), "{id}: {}", refused.chain());
        assert!(refused.chain().contains(id), "{}", refused.chain());
        assert_eq!(kind(runtime.delete_pod(id, DeleteOptions { force: true })), ErrorKind::Store, "{id}");
        assert_eq!(kind(runtime.stop_pod(id, StopOptions::forced())), ErrorKind::Store, "{id}");
        assert_eq!(kind(runtime.status_pod(id)), ErrorKind::Store, "{id}");
    }
    let done = runtime.cleanup_each(false).unwrap();
    assert!(done.leftovers.is_empty(), "{:?}", done.leftovers);
    let refused: Vec<_> = done.refused.iter().map(|error| error.chain()).collect();
    assert_eq!(refused.len(), 3, "each is named: {refused:?}");
    assert_eq!(others(), before);
    assert_eq!(runtime.list_pods().unwrap().len(), 1, "they are not pods");
    assert_eq!(pod_state(&runtime), State::Running);
    runtime.delete_pod("p", DeleteOptions { force: true }).unwrap();
    assert_eq!(others(), before);
}

/// A file of others in a pod's directories: the pod is usable and can be stopped; calls that would have to remove the
/// file are refused before they have done anything.
#[test]
fn a_pods_directory_with_a_file_of_others_is_not_removed() {
    for place in
        ["config/p/notes", "run/p/notes", "config/p/a/notes", "run/p/a/notes", "run/p/a/exec/notes", "run/p/n/x"]
    {
        let (host, runtime) = running(&["a"]);
        let path = host.dir().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "keep").unwrap();
        runtime.pause_pod("p").unwrap();
        runtime.resume_pod("p").unwrap();
        let refused = error(runtime.delete_pod("p", DeleteOptions { force: true }));
        assert!(matches!(&refused, Error::Store { source: StoreCause::Foreign, path: named } if *named == path));
        assert_eq!(pod_state(&runtime), State::Running, "{place}: refused before anything was done");
        assert_eq!(fs::read_to_string(&path).unwrap(), "keep");
        fs::remove_file(&path).unwrap();
        finish(&host, &runtime);
    }
}

#[test]
fn leftovers_with_a_file_of_others_stay_and_are_named() {
    let (host, runtime) = running(&["a"]);
    fs::remove_file(host.dir().join("config/p/config.json")).unwrap();
    let path = host.dir().join("run/p/a/notes");
    fs::write(&path, "keep").unwrap();
    let before = snapshot(&host);
    for refused in [
        error(runtime.cleanup()),
        error(runtime.create_pod(host.pod("p", &[]))),
        error(runtime.delete_pod("p", DeleteOptions { force: true })),
    ] {
        assert!(refused.chain().contains("run/p/a/notes"), "{}", refused.chain());
    }
    assert_eq!(snapshot(&host), before);
    fs::remove_file(&path).unwrap();
    assert_eq!(runtime.cleanup().unwrap(), ["p"]);
    assert_clean(&host);
}

#[test]
fn a_dry_run_finds_leftovers_and_removes_nothing() {
    let (host, runtime) = running(&["a"]);
    runtime.create_pod(host.pod("q", &[])).unwrap();
    fs::remove_file(host.dir().join("config/q/config.json")).unwrap();
    let before = snapshot(&host);
    host.calls();
    let found = runtime.cleanup_each(true).unwrap();
    assert_eq!((found.leftovers.as_slice(), found.refused.len()), (["q".to_owned()].as_slice(), 0));
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    assert_eq!(runtime.cleanup().unwrap(), ["q"]);
    assert!(runtime.cleanup_each(true).unwrap().leftovers.is_empty());
    finish(&host, &runtime);
}

/// One run root, two config roots: the pods of the one look like leftovers to the other.
#[test]
fn a_running_pod_under_another_root_survives_everything() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    for config in ["other", "config/p"] {
        let stranger = over(&host, &host.dir().join(config), &host.dir().join("run"));
        host.calls();
        for refused in [
            error(stranger.cleanup()),
            error(stranger.create_pod(host.pod("p", &[]))),
            error(stranger.create_pod(host.pod("q", &[]))),
            error(stranger.delete_pod("p", DeleteOptions { force: true })),
            error(stranger.list_pods()),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Store, "{}", refused.chain());
        }
        let text = error(stranger.cleanup()).chain();
        let own = host.dir().join("config");
        assert!(text.contains(&own.display().to_string()) && text.contains("--root"), "{text}");
        assert!(host.calls().is_empty());
        assert_eq!(snapshot(&host), before);
    }
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}

/// The other way round: with a wrong run root a running pod looked as if the host had been restarted, and a deletion
/// lost its machine.
#[test]
fn a_config_root_is_not_used_with_another_run_root() {
    let (host, runtime) = running(&["a"]);
    let stranger = over(&host, &host.dir().join("config"), &host.dir().join("elsewhere"));
    assert_eq!(kind(stranger.list_pods()), ErrorKind::Store);
    assert_eq!(kind(stranger.status_pod("p")), ErrorKind::Store);
    assert_eq!(kind(stranger.delete_pod("p", DeleteOptions { force: true })), ErrorKind::Store);
    assert_eq!(kind(stranger.start_pod("p")), ErrorKind::Store);
    assert!(!host.dir().join("elsewhere").exists());
    assert_eq!(pod_state(&runtime), State::Running);
    let same = over(&host, &host.dir().join("config"), &host.dir().join("config"));
    assert_eq!(kind(same.list_pods()), ErrorKind::Store, "one directory for both");
    // Another spelling of the same directory is the same directory.
    symlink(host.dir().join("run"), host.dir().join("run-link")).unwrap();
    let linked = over(&host, &host.dir().join("config"), &host.dir().join("run-link"));
    assert_eq!(linked.list_pods().unwrap().len(), 1);
    finish(&host, &runtime);
    // Without pods there is nothing to lose.
    stranger.run_pod(host.pod("p", &[])).unwrap();
    assert_eq!(kind(runtime.list_pods().and(host.runtime().list_pods())), ErrorKind::Store);
    stranger.delete_pod("p", DeleteOptions { force: true }).unwrap();
}

/// Roots of an earlier version have no markers.
#[test]
fn roots_without_markers_are_adopted_if_all_in_them_is_hutchs() {
    let forget = |host: &FakeHost| {
        for marker in [".hutch-root.json", "p/.hutch-pod.json", "q/.hutch-pod.json"] {
            for root in ["config", "run"] {
                let _ = fs::remove_file(host.dir().join(root).join(marker));
            }
        }
    };
    let (host, _) = running(&["a"]);
    forget(&host);
    fs::write(host.dir().join("run/q"), "a file").unwrap();
    let refused = error(host.runtime().list_pods());
    assert!(refused.chain().contains("run/q"), "{}", refused.chain());
    fs::remove_file(host.dir().join("run/q")).unwrap();
    // Its machine lives, and belongs to another config root.
    let stranger = over(&host, &host.dir().join("other"), &host.dir().join("run"));
    host.runtime().create_pod(host.pod("q", &[])).unwrap();
    forget(&host);
    let runtime = host.runtime();
    assert_eq!(runtime.list_pods().unwrap().len(), 2);
    assert_eq!(pod_state(&runtime), State::Running);
    assert_eq!(kind(stranger.cleanup()), ErrorKind::Store);
    runtime.delete_pod("q", DeleteOptions { force: true }).unwrap();
    finish(&host, &runtime);
}

/// The runtime directory is gone and the host was not restarted: the machine may live.
#[test]
fn p_049_a_lost_runtime_directory_is_not_taken_for_a_restart_of_the_host() {
    let (host, runtime) = running(&["a"]);
    fs::remove_dir_all(host.dir().join("run/p")).unwrap();
    let lost = error(runtime.status_pod("p"));
    assert!(matches!(lost, Error::Store { source: StoreCause::Lost, .. }), "{}", lost.chain());
    assert_eq!(kind(runtime.delete_pod("p", DeleteOptions { force: false })), ErrorKind::Store);
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::Store);
    assert!(host.dir().join("config/p/config.json").exists());
    host.kill_vm("p");
    runtime.delete_pod("p", DeleteOptions { force: true }).unwrap();
}

/// A run root that survives a restart of the host: what its records say is not true any more.
#[test]
fn p_049_records_of_an_earlier_boot_are_not_believed() {
    let (host, runtime) = running(&["a"]);
    let run = host.dir().join("run");
    let copy = host.dir().join("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([&run, &copy]).status().unwrap();
    assert!(copied.success());
    host.host_restart();
    fs::rename(&copy, &run).unwrap();
    assert_eq!(pod_state(&runtime), State::Stopped);
    assert!(runtime.status_pod("p").unwrap().reason.unwrap().contains("restarted"));
    runtime.start_pod("p").unwrap();
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}

/// A call that was killed while it made or removed a directory.
#[test]
fn directories_under_construction_are_removed_by_a_cleanup() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &[])).unwrap();
    for root in ["config", "run"] {
        let dir = host.dir().join(root);
        fs::create_dir(dir.join(".hutch-tmp-0123456789abcdef")).unwrap();
        fs::create_dir(dir.join(".hutch-tmp-0123456789abcdee")).unwrap();
        fs::write(dir.join(".hutch-tmp-0123456789abcdee/.hutch-pod.json 0123456789abcdef"), "{").unwrap();
        fs::create_dir(dir.join(".hutch-tmp-mine")).unwrap();
    }
    fs::write(host.dir().join("run/.hutch-id-web"), "").unwrap();
    assert!(runtime.cleanup().unwrap().is_empty());
    for root in ["config", "run"] {
        fs::remove_dir(host.dir().join(root).join(".hutch-tmp-mine")).expect("not hutch's, so it is still there");
    }
    finish(&host, &runtime);
}
