//! From creation to removal.

use std::path::Path;

use hutch_agent_proto::{ExitStatus, RemoteErrorKind, Request, Response, StdStream, WindowSize};
use serde_json::json;

use crate::bundle::{config, create, create_with_stdin, guest, rootfs, run, script, start};
use crate::support::{children, eventually, send_all};

fn kind(result: Result<Response, hutch_agent_proto::RemoteError>) -> RemoteErrorKind {
    result.expect_err("a refusal").kind
}

fn id(id: &str) -> String {
    id.into()
}

#[test]
fn a_container_waits_to_be_started_runs_and_is_removed() {
    let Some((guest, mut control)) = start() else { return };
    let spec = config(&guest, &["/bin/sh", "-c", "echo hi; echo oh >&2; exit 7"]);
    let Ok(Response::Started { pid }) = control.call(create("c", spec.clone())) else { panic!("not created") };
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(kind(control.call(create("c", spec.clone()))), RemoteErrorKind::AlreadyExists);
    control.done(Request::StartContainer { id: id("c") });
    assert_eq!(guest.read("c", StdStream::Stdout), "hi\n");
    assert_eq!(guest.read("c", StdStream::Stderr), "oh\n");
    assert_eq!(control.wait("c"), ExitStatus::Code(7));
    assert_eq!(kind(control.call(Request::StartContainer { id: id("c") })), RemoteErrorKind::WrongState);
    control.done(Request::RemoveContainer { id: id("c"), force: false });
    assert_eq!(kind(control.call(Request::RemoveContainer { id: id("c"), force: false })), RemoteErrorKind::NotFound);
    assert_eq!(script(&guest, &mut control, spec).0, 7, "the name is free again");
}

#[test]
fn what_a_container_sees_is_its_own() {
    let Some((guest, mut control)) = start() else { return };
    let text = "hostname; echo $$; echo $A; echo $HOME; pwd; ls /; grep -c . /proc/self/mountinfo >/dev/null
        head -c 1 /proc/kcore | wc -c; echo x 2>/dev/null > /proc/sys/kernel/hostname || echo refused
        grep CapEff /proc/self/status; cat /proc/self/cgroup";
    let (code, out, err) = script(&guest, &mut control, config(&guest, &["sh", "-c", text]));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, &lines[..5]), (0, &["box", "1", "b=c", "/root", "/"][..]), "{out} {err}");
    assert!(lines.contains(&"home") && !lines.contains(&"scratch"), "{out}");
    assert!(lines.contains(&"refused"), "a read-only path: {out}");
    assert!(lines.contains(&"CapEff:\t00000000000000e1"), "chown, kill, setuid, setgid: {out}");
    assert_eq!(lines.last(), Some(&"0::/"), "a control group namespace of its own: {out}");
}

#[test]
fn a_read_only_root_and_mounts_are_as_configured() {
    let Some(guest) = guest() else { return };
    rootfs(&guest);
    let shared = guest.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let mut control = guest.watch();
    let mut spec = config(&guest, &["sh", "-c", "touch /x || touch /rw/x; touch /ro/y; ls /ro"]);
    spec["root"]["readonly"] = json!(true);
    for (destination, mode) in [("/rw", "rw"), ("/ro", "ro")] {
        let mount = json!({"destination": destination, "type": "bind", "source": shared, "options": ["rbind", mode]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        std::fs::create_dir_all(guest.dir.path().join("rootfs").join(&destination[1..])).unwrap();
    }
    let (_, out, err) = script(&guest, &mut control, spec);
    assert_eq!(out, "x\n", "{err}");
    assert_eq!(err.matches("Read-only file system").count(), 2, "{err}");
}

#[test]
fn the_resolvers_configuration_of_the_pod_is_seen_inside() {
    let Some((guest, mut control)) = start() else { return };
    let print = ["sh", "-c", "cat /etc/resolv.conf; echo x > /etc/resolv.conf"];
    let (code, out, _) = script(&guest, &mut control, config(&guest, &["cat", "/etc/resolv.conf"]));
    assert_eq!((code, out.as_str()), (1, ""), "without a configuration there is no file");
    // Written here, since SetupSandbox would change this machine's own configuration.
    let file = hutch_agent::resolver_file(&guest.dir.path().join("run"));
    std::fs::write(&file, "nameserver 10.1.2.3\n").unwrap();
    let (_, out, err) = script(&guest, &mut control, config(&guest, &print));
    assert_eq!(out, "nameserver 10.1.2.3\n");
    assert!(err.contains("Read-only"), "{err}");
    // A mount that the container has of its own stays.
    let own = guest.dir.path().join("own");
    std::fs::write(&own, "nameserver 10.9.9.9\n").unwrap();
    let mut spec = config(&guest, &print);
    let mount = json!({"destination": "/etc/resolv.conf", "type": "bind", "source": own, "options": ["bind"]});
    spec["mounts"].as_array_mut().unwrap().push(mount);
    let (_, out, _) = script(&guest, &mut control, spec);
    assert_eq!(out, "nameserver 10.9.9.9\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "nameserver 10.1.2.3\n");
}

#[test]
fn signals_reach_a_container_before_and_after_its_start() {
    let Some((guest, mut control)) = start() else { return };
    let kill = |signal, all| Request::KillContainer { id: id("c"), signal, all };
    control.call(create("c", config(&guest, &["sleep", "1000"]))).unwrap();
    control.done(kill(9, false));
    assert_eq!(control.wait("c"), ExitStatus::Signal(9));
    control.done(Request::RemoveContainer { id: id("c"), force: false });

    // Without a process namespace of its own: its children live on when it ends.
    let mut spec = config(&guest, &["sh", "-c", "sleep 1000 & sleep 1000 & trap 'exit 3' TERM; echo up; wait"]);
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    run(&mut control, "c", spec);
    let mut one = [0; 3];
    std::io::Read::read_exact(&mut guest.open("c", StdStream::Stdout), &mut one).unwrap();
    control.done(kill(15, false));
    assert_eq!(control.wait("c"), ExitStatus::Code(3));
    let Ok(Response::Stats(stats)) = control.call(Request::Stats { id: id("c") }) else { panic!("no stats") };
    assert_eq!(stats.pids, 2, "its children");
    control.done(kill(9, true));
    control.done(Request::RemoveContainer { id: id("c"), force: true });
    assert_eq!(kind(control.call(kill(9, false))), RemoteErrorKind::NotFound);
}

#[test]
fn a_running_container_is_removed_by_force_only() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sleep", "1000"]));
    assert!(Path::new("/sys/fs/cgroup/hutch/c-c").exists());
    assert_eq!(kind(control.call(Request::RemoveContainer { id: id("c"), force: false })), RemoteErrorKind::WrongState);
    control.done(Request::RemoveContainer { id: id("c"), force: true });
    assert!(!Path::new("/sys/fs/cgroup/hutch/c-c").exists());
}

#[test]
fn a_terminal_is_a_terminal_inside() {
    let Some((guest, mut control)) = start() else { return };
    let mut spec = config(&guest, &["sh", "-c", "tty; stty size; read x; stty size; echo got $x"]);
    spec["process"]["terminal"] = json!(true);
    let size = WindowSize { rows: 11, cols: 22 };
    control.call(create_with_stdin("c", spec, Some(size))).unwrap();
    control.done(Request::StartContainer { id: id("c") });
    let mut terminal = guest.open("c", StdStream::Terminal);
    let size = WindowSize { rows: 33, cols: 44 };
    let mut seen = String::new();
    while !seen.contains("11 22") {
        let mut bytes = [0; 100];
        let n = std::io::Read::read(&mut terminal, &mut bytes).unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    control.done(Request::ResizeTerminal { token: id("c"), size });
    std::io::Write::write_all(&mut terminal, b"word\n").unwrap();
    std::io::Read::read_to_string(&mut terminal, &mut seen).unwrap();
    assert!(seen.contains("/dev/pts/") && seen.contains("33 44") && seen.contains("got word"), "{seen}");
    assert_eq!(control.wait("c"), ExitStatus::Code(0));
    control.done(Request::RemoveContainer { id: id("c"), force: false });
}

#[test]
fn stdin_reaches_a_container() {
    let Some((guest, mut control)) = start() else { return };
    control.call(create_with_stdin("c", config(&guest, &["cat"]), None)).unwrap();
    control.done(Request::StartContainer { id: id("c") });
    send_all(&mut guest.open("c", StdStream::Stdin), b"through and through");
    assert_eq!(guest.read("c", StdStream::Stdout), "through and through");
    assert_eq!(control.wait("c"), ExitStatus::Code(0));
    control.done(Request::RemoveContainer { id: id("c"), force: false });
}

#[test]
fn mistakes_are_distinguished_and_leave_nothing() {
    let Some((guest, mut control)) = start() else { return };
    let mut refused = |spec: serde_json::Value| {
        let error = control.call(create("c", spec)).expect_err("a refusal");
        assert!(!Path::new("/sys/fs/cgroup/hutch/c-c").exists(), "{error:?}");
        error.kind
    };
    for spec in [json!(null), json!([]), json!({}), json!({"root": {"path": "/"}, "process": {"args": []}})] {
        assert_eq!(refused(spec), RemoteErrorKind::Invalid);
    }
    let mut spec = config(&guest, &["true"]);
    spec["root"]["path"] = json!("/no/such/root");
    assert_eq!(refused(spec), RemoteErrorKind::Invalid);
    let mut spec = config(&guest, &["true"]);
    spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/x", "type": "no-such-fs", "source": "x"}));
    refused(spec);
    for name in ["", ".", "..", "a/b", "a b", &"x".repeat(500)] {
        assert_eq!(kind(control.call(create(name, config(&guest, &["true"])))), RemoteErrorKind::Invalid, "{name:?}");
    }
    // A missing program fails the start, not the creation.
    for (program, wanted) in [
        ("/no/such", RemoteErrorKind::ProgramNotFound),
        ("no-such", RemoteErrorKind::ProgramNotFound),
        ("/etc/passwd", RemoteErrorKind::ProgramNotExecutable),
    ] {
        control.call(create("c", config(&guest, &[program]))).unwrap();
        assert_eq!(kind(control.call(Request::StartContainer { id: id("c") })), wanted, "{program}");
        control.done(Request::RemoveContainer { id: id("c"), force: true });
    }
    for request in [
        Request::StartContainer { id: id("none") },
        Request::PauseContainer { id: id("none") },
        Request::Stats { id: id("none") },
        Request::ListProcesses { id: id("none") },
    ] {
        assert_eq!(kind(control.call(request)), RemoteErrorKind::NotFound);
    }
}

#[test]
fn many_containers_come_and_go_and_leave_nothing() {
    let Some((guest, mut control)) = start() else { return };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().count();
    let mut before = 0;
    for round in 0..12 {
        let ids: Vec<String> = (0..3).map(|n| format!("c{n}")).collect();
        for id in &ids {
            run(&mut control, id, config(&guest, &["sleep", "1000"]));
        }
        for id in &ids {
            control.done(Request::KillContainer { id: id.clone(), signal: 9, all: true });
            assert_eq!(control.wait(id), ExitStatus::Signal(9));
            control.done(Request::RemoveContainer { id: id.clone(), force: false });
        }
        if round == 1 {
            before = descriptors();
        }
    }
    assert_eq!(descriptors(), before);
    eventually("children are left", || children(guest.pid()).is_empty());
    for dir in ["state", "bundles", "containers"] {
        let dir = guest.dir.path().join("run").join(dir);
        let left = std::fs::read_dir(&dir).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "{}", dir.display());
    }
}
