//! Seccomp profiles on real processes: P-098.

use hutch_agent_proto::{Event, ExitStatus, ProcessSpec, RemoteErrorKind, Request, StdStream};
use serde_json::{json, Value};

use crate::bundle::{config, create, create_with_stdin, run, script, start};
use crate::support::{Control, Guest};

/// Allows all calls except those in `rules`.
fn profile(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
}

fn deny(names: &[&str]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOTTY})
}

/// Exit code, stdout and stderr of the shell script `text` under `profile`.
fn shell(guest: &Guest, control: &mut Control, profile: Value, text: &str) -> (u8, String, String) {
    let mut spec = config(guest, &["sh", "-c", text]);
    spec["linux"]["seccomp"] = profile;
    script(guest, control, spec)
}

/// Runs a script in container `c` by entering it.
fn enter(guest: &Guest, control: &mut Control, process: ProcessSpec, text: &str) -> (ExitStatus, String) {
    let args = ["sh", "-c", text].map(str::to_owned).to_vec();
    let process = ProcessSpec { args, env: vec![("PATH".into(), "/bin".into())], ..process };
    let container = Some("c".to_owned());
    control
        .call(Request::StartProcess { token: "e".into(), container, process: Box::new(process) })
        .expect("it is entered");
    let out = guest.read("e", StdStream::Stdout) + &guest.read("e", StdStream::Stderr);
    let status = control.wait("e");
    control.done(Request::ForgetProcess { token: "e".into() });
    (status, out)
}

/// The filter applies to every user and with every setting of noNewPrivileges, and capabilities are as configured.
#[test]
fn p_098_a_filter_confines_all_processes_of_a_container() {
    let Some((guest, mut control)) = start() else { return };
    let look = "grep -E '^(Seccomp|NoNewPrivs|CapEff|CapPrm|CapBnd):' /proc/self/status | tr -d '\t'; mkdir /tmp/x";
    for (uid, name) in [(0, "root"), (1000, "joe")] {
        for no_new_privileges in [false, true] {
            let mut spec = config(&guest, &["sh", "-c", &format!("{look}; read x")]);
            spec["linux"]["seccomp"] = profile(json!([deny(&["mkdir", "mkdirat"])]));
            spec["process"]["user"] = json!({"uid": uid, "gid": uid});
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            control.call(create_with_stdin("c", spec, None)).unwrap();
            control.done(Request::StartContainer { id: "c".into() });
            // chown, kill, setuid, setgid for root; none for another user.
            let capabilities = if uid == 0 { "00000000000000e1" } else { "0000000000000000" };
            let state = format!(
                "CapPrm:{capabilities}\nCapEff:{capabilities}\nCapBnd:00000000000000e1\nNoNewPrivs:{}\nSeccomp:2\n",
                u8::from(no_new_privileges)
            );
            let refused = "mkdir: can't create directory '/tmp/x': Inappropriate ioctl for device\n";
            for own in [false, true] {
                let process = ProcessSpec { user: name.into(), no_new_privileges: own, ..ProcessSpec::default() };
                let (status, out) = enter(&guest, &mut control, process, look);
                let state = if own { state.replace("NoNewPrivs:0", "NoNewPrivs:1") } else { state.clone() };
                assert_eq!((status, out), (ExitStatus::Code(1), state + refused), "{name} {no_new_privileges} {own}");
            }
            drop(guest.open("c", StdStream::Stdin));
            let (out, err) = (guest.read("c", StdStream::Stdout), guest.read("c", StdStream::Stderr));
            assert_eq!((out, err.as_str()), (state, refused), "{name} {no_new_privileges}");
            control.wait("c");
            control.done(Request::RemoveContainer { id: "c".into(), force: false });
        }
    }
    let (code, out, _) = script(&guest, &mut control, config(&guest, &["sh", "-c", look]));
    assert!(code == 0 && out.contains("Seccomp:0"), "without a profile there is no filter: {out}");
}

#[test]
fn p_098_a_forbidden_call_can_be_deadly() {
    let Some((guest, mut control)) = start() else { return };
    let deadly = |action: &str| profile(json!([{"names": ["mkdir"], "action": action}]));
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let mut spec = config(&guest, &["mkdir", "/tmp/x"]);
        spec["linux"]["seccomp"] = deadly(action);
        assert_eq!(script(&guest, &mut control, spec).0, 128 + libc::SIGSYS as u8, "{action}");
    }
    let mut spec = config(&guest, &["sleep", "1000"]);
    spec["linux"]["seccomp"] = deadly("SCMP_ACT_KILL_PROCESS");
    run(&mut control, "c", spec);
    let (status, _) = enter(&guest, &mut control, ProcessSpec::default(), "exec mkdir /tmp/x");
    assert_eq!(status, ExitStatus::Signal(libc::SIGSYS));
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

#[test]
fn p_098_rules_check_several_arguments() {
    let Some((guest, mut control)) = start() else { return };
    let rule = json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": libc::SIGUSR1, "op": "SCMP_CMP_EQ"},
    ]}]);
    let text = "trap 'echo usr2' USR2; trap 'echo usr1' USR1; sleep 1000 & kill -USR1 1 || echo denied
        kill -USR2 1; kill -USR1 $! && echo other";
    let (_, out, err) = shell(&guest, &mut control, profile(rule), text);
    assert_eq!(out, "denied\nusr2\nother\n", "{err}");
    // Docker's rule for clone: without any of these flags. The shell can fork only if mask and value are not swapped.
    let rule = json!([{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
        {"index": 0, "value": 0x7e02_0000u32, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
    ]}]);
    let mut calls = profile(rule);
    // Everything else a shell needs.
    let needed = [
        "read",
        "write",
        "close",
        "fstat",
        "stat",
        "lstat",
        "newfstatat",
        "poll",
        "lseek",
        "mmap",
        "mprotect",
        "munmap",
        "brk",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "ioctl",
        "pipe",
        "pipe2",
        "dup",
        "dup2",
        "getpid",
        "getppid",
        "fork",
        "vfork",
        "execve",
        "exit",
        "exit_group",
        "wait4",
        "uname",
        "fcntl",
        "getcwd",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "prlimit64",
        "getrandom",
        "rseq",
        "readlink",
        "readlinkat",
        "openat",
        "open",
        "access",
        "getrlimit",
        "clock_gettime",
        "setpgid",
        "getpgrp",
        "sysinfo",
        "time",
        "gettimeofday",
        "futex",
        "prctl",
        "rt_sigsuspend",
    ];
    calls["defaultAction"] = json!("SCMP_ACT_ERRNO");
    calls["syscalls"].as_array_mut().unwrap().push(json!({"names": needed.as_slice(), "action": "SCMP_ACT_ALLOW"}));
    let (code, out, err) = shell(&guest, &mut control, calls, "(echo forked); echo \"$(echo twice)\"; mkdir /tmp/x");
    assert_eq!((code, out.as_str()), (1, "forked\ntwice\n"), "{err}");
    assert!(err.contains("Operation not permitted"), "{err}");
}

/// The process loads the filter last, so the calls that set up the container need no rules.
#[test]
fn p_098_a_profile_needs_to_allow_no_more_than_the_program_does() {
    let Some((guest, mut control)) = start() else { return };
    let rules = deny(&[
        "accept",
        "accept4",
        "bind",
        "listen",
        "socket",
        "connect",
        "recvfrom",
        "recvmsg",
        "sendto",
        "sendmsg",
        "capset",
        "capget",
        "prctl",
        "setresuid",
        "setresgid",
        "setgroups",
        "chdir",
        "fchdir",
        "mount",
        "close_range",
        "kill",
    ]);
    let (code, out, err) = shell(&guest, &mut control, profile(json!([rules])), "echo runs");
    assert_eq!((code, out.as_str()), (0, "runs\n"), "{err}");
    // The reason why a program cannot be executed still reaches the host.
    let mut spec = config(&guest, &["/no/such"]);
    spec["linux"]["seccomp"] = profile(json!([rules]));
    control.call(create("c", spec)).unwrap();
    let error = control.call(Request::StartContainer { id: "c".into() }).expect_err("a refusal");
    assert_eq!(error.kind, RemoteErrorKind::ProgramNotFound, "{error:?}");
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

#[test]
fn p_098_mistakes_in_a_profile_fail_the_creation() {
    let Some((guest, mut control)) = start() else { return };
    for bad in [
        json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
        json!({"defaultAction": "SCMP_ACT_WHAT"}),
        profile(json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99999}])),
    ] {
        let mut spec = config(&guest, &["true"]);
        spec["linux"]["seccomp"] = bad.clone();
        let error = control.call(create("c", spec)).expect_err("a refusal");
        assert_eq!(error.kind, RemoteErrorKind::Invalid, "{bad}: {error:?}");
    }
    let (code, ..) = shell(&guest, &mut control, profile(json!([deny(&["no_such_call", "mkdir"])])), "mkdir /tmp/x");
    assert_eq!(code, 1, "the known names hold");
    let message = control.event(|event| match event {
        Event::Log { message, .. } if message.contains("no_such_call") => Some(message.clone()),
        _ => None,
    });
    assert!(message.contains("container \"script\"") && !message.contains("mkdir"), "{message}");
}
