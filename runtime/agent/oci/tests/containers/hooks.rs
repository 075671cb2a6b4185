//! Hooks inside a container and hooks of the guest: P-166.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hutch_agent_proto::{Event, ExitStatus, RemoteErrorKind, Request, StdStream};
use serde_json::{json, Value};

use crate::bundle::{config, create, create_with_stdin, guest, rootfs, run, script, start};
use crate::support::{children, eventually, Control, Guest};

fn inside(text: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", text]})
}

/// A container with `hooks` before its program, a shell that runs `text`.
fn with_hooks(guest: &Guest, hooks: Value, text: &str) -> Value {
    let mut spec = config(guest, &["sh", "-c", text]);
    spec["hooks"] = json!({"startContainer": hooks});
    spec
}

#[test]
fn p_166_hooks_inside_run_after_creation_and_before_the_program() {
    let Some(guest) = guest() else { return };
    let root = rootfs(&guest);
    let mut control = guest.watch();
    let hooks = json!([
        {"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state; echo x$A$B > /tmp/env"], "env": ["PATH=/bin", "B=1"]},
        inside("hostname > /tmp/order; echo $A >> /tmp/order; echo $$ > /tmp/pid; id -u >> /tmp/order"),
    ]);
    let mut spec = with_hooks(&guest, hooks, "echo program >> /tmp/order; read x");
    spec["annotations"] = json!({"a": "b"});
    control.call(create_with_stdin("c", spec, None)).unwrap();
    assert!(!root.join("tmp/state").exists(), "not yet");
    control.done(Request::StartContainer { id: "c".into() });
    let read = |name: &str| fs::read_to_string(root.join("tmp").join(name)).unwrap();
    let state: Value = serde_json::from_str(&read("state")).unwrap();
    assert_eq!((&state["id"], &state["status"], &state["pid"]), (&json!("c"), &json!("created"), &json!(1)), "{state}");
    assert_eq!(state["annotations"]["a"], "b");
    assert!(state["bundle"].as_str().is_some_and(|bundle| bundle.ends_with("/bundles/c")), "{state}");
    assert_eq!(read("env"), "x1\n", "an environment of its own");
    eventually("the program does not run", || read("order").ends_with("program\n"));
    assert_eq!(read("order"), "box\nb=c\n0\nprogram\n", "or that of the container");
    assert_ne!(read("pid"), "1\n");
    drop(guest.open("c", StdStream::Stdin));
    control.wait("c");
    control.done(Request::RemoveContainer { id: "c".into(), force: false });
}

#[test]
fn p_166_a_hook_inside_that_fails_fails_the_start_with_the_reason() {
    let Some(guest) = guest() else { return };
    let root = rootfs(&guest);
    let mut control = guest.watch();
    let slow = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo waiting; sleep 1000"], "timeout": 1});
    for (hooks, words) in [
        (json!([inside("true"), inside("echo not today >&2; exit 3"), inside("touch /tmp/third")]), "not today"),
        (json!([inside("exit 3")]), "exited with code 3"),
        (json!([slow]), "killed after 1 s; it said: waiting"),
        (json!([{"path": "/no/such/hook"}]), "/no/such/hook"),
    ] {
        control.call(create("c", with_hooks(&guest, hooks, "touch /tmp/program"))).unwrap();
        let error = control.call(Request::StartContainer { id: "c".into() }).expect_err("a refusal");
        assert_eq!(error.kind, RemoteErrorKind::System);
        assert!(error.message.contains("startContainer hook") && error.message.contains(words), "{error:?}");
        assert_ne!(control.wait("c"), ExitStatus::Code(0));
        control.done(Request::RemoveContainer { id: "c".into(), force: false });
    }
    assert!(!root.join("tmp/third").exists() && !root.join("tmp/program").exists());
}

/// Hooks come from the container's root file system, so they are trusted no more than its program.
#[test]
fn p_166_hooks_inside_are_confined_like_the_program() {
    let Some((guest, mut control)) = start() else { return };
    let look = "grep -E '^(Seccomp|CapEff):' /proc/self/status >&2; mkdir /tmp/x && exit 0; exit 9";
    let mut spec = with_hooks(&guest, json!([inside(look)]), "true");
    spec["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    control.call(create("c", spec)).unwrap();
    let error = control.call(Request::StartContainer { id: "c".into() }).expect_err("a refusal");
    assert!(error.message.contains("code 9") && error.message.contains("not permitted"), "{error:?}");
    assert!(error.message.contains("Seccomp:\t2") && error.message.contains("CapEff:\t00000000000000e1"), "{error:?}");
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

/// A directory with hooks of the guest that record their arguments and their state.
struct Hooks(PathBuf);

impl Hooks {
    fn new(guest: &Guest) -> Self {
        Self(guest.dir.path().join("hooks"))
    }

    fn add(&self, kind: &str, name: &str, text: &str) {
        let dir = self.0.join(kind);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn seen(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn config(&self, guest: &Guest, args: &[&str]) -> Value {
        let mut spec = config(guest, args);
        spec["annotations"] = json!({"dev.hutch.guest.hooks": self.0});
        spec
    }
}

fn warning(control: &mut Control, words: &str) -> String {
    control.event(|event| match event {
        Event::Log { message, .. } if message.contains(words) => Some(message.clone()),
        _ => None,
    })
}

#[test]
fn p_166_hooks_of_the_guest_run_for_each_container() {
    let Some((guest, mut control)) = start() else { return };
    let hooks = Hooks::new(&guest);
    let log = hooks.log().display().to_string();
    // The guest's own root, not the container's.
    let note = format!("[ -d /proc/1 ] && echo \"$(basename $0) $1 $(cat)\" >> {log}");
    hooks.add("prestart", "20-second", &note);
    hooks.add("prestart", "10-first", &note);
    hooks.add("poststart", "note", &note);
    hooks.add("poststop", "note", &note);
    fs::write(hooks.0.join("prestart/README"), "not executable").unwrap();
    let spec = hooks.config(&guest, &["sleep", "1000"]);
    let pid = match control.call(create("c", spec)) {
        Ok(hutch_agent_proto::Response::Started { pid }) => pid,
        other => panic!("{other:?}"),
    };
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let seen = lines(&hooks.seen());
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (line, name) in seen.iter().zip(["10-first", "20-second"]) {
        let state = line.strip_prefix(&format!("{name} prestart ")).unwrap_or_else(|| panic!("{line}"));
        let state: Value = serde_json::from_str(state).unwrap();
        assert_eq!((&state["id"], &state["status"], &state["pid"]), (&json!("c"), &json!("created"), &json!(pid)));
        let bundle = state["bundle"].as_str().unwrap();
        assert_eq!(bundle, guest.dir.path().join("run/oci/bundles/c").to_str().unwrap());
    }
    control.done(Request::StartContainer { id: "c".into() });
    let seen = lines(&hooks.seen());
    assert!(seen.len() == 3 && seen[2].starts_with("note poststart") && seen[2].contains("\"running\""), "{seen:?}");
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
    let seen = lines(&hooks.seen());
    assert!(seen.len() == 4 && seen[3].starts_with("note poststop") && seen[3].contains("\"stopped\""), "{seen:?}");
    assert!(!seen[3].contains("\"pid\""), "{seen:?}");
    // Other containers have none.
    assert_eq!(script(&guest, &mut control, config(&guest, &["true"])).0, 0);
    assert_eq!(lines(&hooks.seen()).len(), 4);
    eventually("helpers are left", || children(guest.pid()).is_empty());
}

#[test]
fn p_166_a_failing_hook_of_the_guest_is_fatal_before_the_start_only() {
    let Some((guest, mut control)) = start() else { return };
    let hooks = Hooks::new(&guest);
    let error = control.call(create("c", hooks.config(&guest, &["true"]))).expect_err("no directory");
    assert!(error.kind == RemoteErrorKind::Invalid && error.message.contains("guest_hooks"), "{error:?}");

    hooks.add("prestart", "a", "echo no licence; exit 2");
    let error = control.call(create("c", hooks.config(&guest, &["true"]))).expect_err("a refusal");
    assert!(error.message.contains("prestart of the guest") && error.message.contains("code 2"), "{error:?}");
    assert!(error.message.contains("no licence"), "{error:?}");
    assert!(!Path::new("/sys/fs/cgroup/hutch/c-c").exists());
    eventually("processes are left", || children(guest.pid()).is_empty());

    hooks.add("prestart", "a", "exit 0");
    hooks.add("poststart", "a", "echo too late; exit 1");
    hooks.add("poststart", "b", &format!("echo b >> {}", hooks.log().display()));
    hooks.add("poststop", "a", "exit 5");
    run(&mut control, "c", hooks.config(&guest, &["sleep", "1000"]));
    let message = warning(&mut control, "poststart of the guest");
    assert!(message.contains("container \"c\"") && message.contains("too late"), "{message}");
    assert_eq!(hooks.seen(), "b\n", "the others run");
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
    warning(&mut control, "poststop of the guest");
}

#[test]
fn p_166_a_hook_of_the_guest_that_hangs_is_ended() {
    let Some((guest, mut control)) = start() else { return };
    let hooks = Hooks::new(&guest);
    hooks.add("prestart", "a", "echo hangs; sleep 1000");
    let error = control.call(create("c", hooks.config(&guest, &["true"]))).expect_err("a refusal");
    assert!(error.message.contains("killed after 10 s; it said: hangs"), "{error:?}");
    eventually("it is left", || children(guest.pid()).is_empty());
}
