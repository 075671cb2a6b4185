//! Processes: their environment, failures to start, and reports of their end.

mod support;

use hutch_agent_proto::*;
use support::*;

#[test]
fn exit_codes_and_signals_are_distinguished() {
    let guest = Guest::start();
    for (script, expected) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("exit 255", ExitStatus::Code(255)),
        ("kill -9 $$", ExitStatus::Signal(9)),
        ("kill -15 $$", ExitStatus::Signal(15)),
        // Real-time signals have no names; the reaper must still handle them.
        ("kill -40 $$", ExitStatus::Signal(40)),
    ] {
        assert_eq!(run(&guest, shell(script)).0, expected, "{script}");
    }
}

#[test]
fn output_streams_are_separate() {
    let guest = Guest::start();
    let (status, out, err) = run(&guest, shell("echo to-out; echo to-err >&2; exit 3"));
    assert_eq!((status, out.as_str(), err.as_str()), (ExitStatus::Code(3), "to-out\n", "to-err\n"));
}

#[test]
fn the_environment_is_what_was_asked_for() {
    let guest = Guest::start();
    let mut spec = process(&["/usr/bin/env"]);
    spec.env.push(("GREETING".into(), "a b=c".into()));
    let out = output(&guest, spec.clone());
    let mut lines: Vec<_> = out.lines().filter(|line| !line.starts_with("HOME=")).collect();
    lines.sort();
    assert_eq!(lines, ["GREETING=a b=c", &format!("PATH={}", spec.env[0].1)]);
    assert!(out.contains("HOME=/"), "{out}");
    spec.env.push(("HOME".into(), "/elsewhere".into()));
    assert!(output(&guest, spec).contains("HOME=/elsewhere\n"));
}

#[test]
fn the_working_directory_is_made_if_missing() {
    let guest = Guest::start();
    let dir = guest.dir.path().join("made/deep");
    let spec = ProcessSpec { cwd: dir.to_str().unwrap().into(), ..process(&["pwd"]) };
    assert_eq!(output(&guest, spec).trim(), dir.to_str().unwrap());
    assert_eq!(output(&guest, process(&["pwd"])), "/\n");
}

#[test]
fn a_path_that_is_not_a_directory_is_an_invalid_working_directory() {
    let guest = Guest::start();
    let mut control = guest.control();
    for (token, cwd) in [("a", "relative"), ("b", "/etc/passwd"), ("c", "/etc/passwd/sub"), ("d", "/proc/none")] {
        let spec = ProcessSpec { cwd: cwd.into(), ..process(&["true"]) };
        let error = control.start(token, spec).unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::Invalid, "{cwd}: {error}");
        assert!(error.message.contains(cwd), "{error}");
    }
}

#[test]
fn programs_that_cannot_run_are_distinguished() {
    let guest = Guest::start();
    let mut control = guest.control();
    let file = |name: &str| guest.dir.path().join(name).to_str().unwrap().to_string();
    write_program(file("text").as_ref(), b"just text", 0o755);
    write_program(file("script").as_ref(), b"#!/bin/none-such\n", 0o755);
    write_program(file("plain").as_ref(), b"#!/bin/sh\n", 0o644);
    std::fs::create_dir(file("directory")).unwrap();
    for (program, kind) in [
        ("none-such-program".to_string(), RemoteErrorKind::ProgramNotFound),
        ("/none/such/program".to_string(), RemoteErrorKind::ProgramNotFound),
        (file("plain") + "/sub", RemoteErrorKind::ProgramNotFound),
        (file("script"), RemoteErrorKind::ProgramNotFound),
        (file("text"), RemoteErrorKind::ProgramNotExecutable),
        (file("plain"), RemoteErrorKind::ProgramNotExecutable),
        (file("directory"), RemoteErrorKind::ProgramNotExecutable),
        (String::new(), RemoteErrorKind::Invalid),
        ("a\0b".to_string(), RemoteErrorKind::Invalid),
    ] {
        let error = control.start("p", process(&[&program])).unwrap_err();
        assert_eq!(error.kind, kind, "{program:?}: {error}");
    }
    let error = control.start("p", process(&[&file("script")])).unwrap_err();
    assert!(error.message.contains("interpreter"), "{error}");
    assert_eq!(control.start("p", ProcessSpec::default()).unwrap_err().kind, RemoteErrorKind::Invalid, "no program");
    // The token is free again, and the attempts have left no process.
    control.start("p", process(&["true"])).unwrap();
    eventually("failed starts leave zombies", || children(guest.pid()).is_empty());
}

#[test]
fn a_name_is_looked_up_in_path_and_skips_what_cannot_run() {
    let guest = Guest::start();
    let dir = guest.dir.path();
    for sub in ["first/tool", "second", "third"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    write_program(&dir.join("second/tool"), b"#!/bin/sh\n", 0o644);
    write_program(&dir.join("third/tool"), b"#!/bin/sh\necho third\n", 0o755);
    let path = ["none", "first", "second", "third"].map(|sub| dir.join(sub).to_str().unwrap().to_string()).join(":");
    let spec = |path: String| ProcessSpec { env: vec![("PATH".into(), path)], ..process(&["tool"]) };
    assert_eq!(output(&guest, spec(path)), "third\n");
    let only = dir.join("second").to_str().unwrap().to_string();
    let error = guest.control().start("p", spec(only)).unwrap_err();
    assert_eq!(error.kind, RemoteErrorKind::ProgramNotExecutable, "{error}");
}

#[test]
fn a_process_starts_clean() {
    let guest = Guest::start();
    let script = "cat /proc/self/status | grep -E '^(SigBlk|SigIgn|SigCgt|NoNewPrivs)'; umask; ls /proc/self/fd; \
                  cut -d' ' -f5,6 /proc/$$/stat; echo $$";
    let out = output(&guest, process(&["/bin/sh", "-c", script]));
    let lines: Vec<_> = out.lines().collect();
    for (line, name) in lines.iter().zip(["SigBlk", "SigIgn", "SigCgt"]) {
        assert_eq!(*line, format!("{name}:\t0000000000000000"));
    }
    assert_eq!(lines[3], "NoNewPrivs:\t0");
    assert_eq!(lines[4], "0022");
    // 3 is the directory that ls itself has open.
    assert_eq!(lines[5..9], ["0", "1", "2", "3"]);
    let own = lines[10];
    assert_eq!(lines[9], format!("{own} {own}"), "group and session are its own");
}

#[test]
fn limits_and_no_new_privileges_are_set() {
    let guest = Guest::start();
    let limit = |kind: &str, soft, hard| Rlimit { kind: kind.into(), soft, hard };
    let spec = ProcessSpec {
        rlimits: vec![limit("RLIMIT_NOFILE", 77, 88), limit("RLIMIT_CORE", 0, 0)],
        no_new_privileges: true,
        ..shell("ulimit -Sn; ulimit -Hn; ulimit -c; grep NoNewPrivs /proc/self/status")
    };
    assert_eq!(output(&guest, spec), "77\n88\n0\nNoNewPrivs:\t1\n");
    let bad = ProcessSpec { rlimits: vec![limit("RLIMIT_NONE", 0, 0)], ..shell("true") };
    assert_eq!(guest.control().start("p", bad).unwrap_err().kind, RemoteErrorKind::Invalid);
}

#[test]
fn a_user_is_looked_up_and_owns_its_streams() {
    if !is_root() {
        return skip("a_user_is_looked_up_and_owns_its_streams", "needs root");
    }
    let guest = Guest::start();
    let script = "id -u; id -g; id -G; echo by-name > /dev/stdout; cat /proc/self/status | grep CapEff";
    let spec = ProcessSpec { user: "daemon".into(), groups: vec!["77".into(), "tty".into()], ..shell(script) };
    assert_eq!(output(&guest, spec), "1\n1\n1 5 77\nby-name\nCapEff:\t0000000000000000\n");
    let spec = ProcessSpec { user: "4711:42".into(), ..shell("id -u; id -g; echo $HOME") };
    assert_eq!(output(&guest, spec), "4711\n42\n/\n");
    for user in ["none-such-user", "daemon:none-such-group"] {
        let spec = ProcessSpec { user: user.into(), ..shell("true") };
        let error = guest.control().start("p", spec).unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::Invalid);
        assert!(error.message.contains("none-such"), "{error}");
    }
}

#[test]
fn every_waiting_request_is_answered() {
    let guest = Guest::start();
    let (mut one, mut two) = (guest.control(), guest.control());
    one.start("p", ProcessSpec { stdin: true, ..shell("read line; exit 5") }).unwrap();
    let early_one = one.send(Request::WaitProcess { token: "p".into() });
    let early_two = two.send(Request::WaitProcess { token: "p".into() });
    // Both are waiting, since requests of a connection are served in order.
    one.done(Request::Ping);
    two.done(Request::Ping);
    send_all(&mut guest.open("p", StdStream::Stdin), b"\n");
    let expected = Ok(Response::Exited(ExitStatus::Code(5)));
    assert_eq!(one.reply(early_one), expected);
    assert_eq!(two.reply(early_two), expected);
    for control in [&mut one, &mut two] {
        let exited = Event::Exited { token: "p".into(), status: ExitStatus::Code(5) };
        control.event(|event| (*event == exited).then_some(()));
        assert_eq!(control.wait("p"), ExitStatus::Code(5), "also afterwards");
    }
}

#[test]
fn a_token_is_unique_until_forgotten() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", ProcessSpec { stdin: true, ..process(&["cat"]) }).unwrap();
    assert_eq!(control.start("p", process(&["true"])).unwrap_err().kind, RemoteErrorKind::AlreadyExists);
    let forget = || Request::ForgetProcess { token: "p".into() };
    assert_eq!(control.call(forget()).unwrap_err().kind, RemoteErrorKind::WrongState);
    control.signal("p", 9, false).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Signal(9));
    assert_eq!(control.signal("p", 9, false).unwrap_err().kind, RemoteErrorKind::WrongState);
    control.done(forget());
    for request in [
        forget(),
        Request::WaitProcess { token: "p".into() },
        Request::SignalProcess { token: "p".into(), signal: 9, all: false },
        Request::CloseStdin { token: "p".into() },
        Request::ResizeTerminal { token: "p".into(), size: WindowSize { rows: 1, cols: 1 } },
    ] {
        assert_eq!(control.call(request.clone()).unwrap_err().kind, RemoteErrorKind::NotFound, "{request:?}");
    }
    control.start("p", process(&["true"])).unwrap();
    for bad in ["", "a b", &"x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(control.start(bad, process(&["true"])).unwrap_err().kind, RemoteErrorKind::Invalid);
    }
}

#[test]
fn signals_reach_the_process_or_all_of_its_offspring() {
    let guest = Guest::start();
    let mut control = guest.control();
    // A child of its own session, and an orphan of the leader's.
    let script = "setsid sleep 1000 & (sleep 1000 &) ; trap 'echo caught' USR1; echo ready; while :; do sleep 1000 & wait $!; done";
    control.start("p", shell(script)).unwrap();
    let mut out = guest.open("p", StdStream::Stdout);
    let mut line = [0; 6];
    std::io::Read::read_exact(&mut out, &mut line).unwrap();
    control.signal("p", 10, false).unwrap();
    let mut line = [0; 7];
    std::io::Read::read_exact(&mut out, &mut line).unwrap();
    assert_eq!(&line, b"caught\n");
    for bad in [0, -1, 65, i32::MIN] {
        assert_eq!(control.signal("p", bad, false).unwrap_err().kind, RemoteErrorKind::Invalid);
    }
    control.signal("p", 9, true).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Signal(9));
    // The stream ends only when the last of them is gone.
    std::io::Read::read_to_end(&mut out, &mut Vec::new()).unwrap();
    eventually("offspring is left", || children(guest.pid()).is_empty());
}

#[test]
fn offspring_can_be_killed_after_the_process_has_ended() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", shell("sleep 1000 & exit 0")).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
    assert_eq!(children(guest.pid()).len(), 1, "the orphan has come to the agent");
    control.signal("p", 9, true).unwrap();
    eventually("the orphan is left", || children(guest.pid()).is_empty());
}

#[test]
fn orphans_are_reaped() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", shell("for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'exit 1' &) ; done; exit 0")).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
    eventually("zombies are left", || children(guest.pid()).is_empty());
    // After a time without any children the reaper is still there.
    control.start("q", shell("exit 4")).unwrap();
    assert_eq!(control.wait("q"), ExitStatus::Code(4));
}

#[test]
fn many_short_processes_from_many_connections_lose_no_status() {
    let guest = Guest::start();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let guest = &guest;
            scope.spawn(move || {
                let mut control = guest.control();
                for number in 0..25u8 {
                    let token = format!("t{thread}-{number}");
                    // The parent ends at once, so statuses of unknown orphans come between.
                    control.start(&token, shell(&format!("(exit 9 &) ; exit {number}"))).unwrap();
                    assert_eq!(control.wait(&token), ExitStatus::Code(number));
                    control.done(Request::ForgetProcess { token });
                }
            });
        }
    });
    eventually("processes are left", || children(guest.pid()).is_empty());
}

#[test]
fn environment_and_arguments_have_rules() {
    let guest = Guest::start();
    let mut control = guest.control();
    for env in [("", "x"), ("A=B", "x"), ("A", "nul\0byte")] {
        let mut spec = process(&["true"]);
        spec.env.push((env.0.into(), env.1.into()));
        assert_eq!(control.start("p", spec).unwrap_err().kind, RemoteErrorKind::Invalid, "{env:?}");
    }
    let huge = "x".repeat(1 << 20);
    let error = control.start("p", process(&["true", &huge])).unwrap_err();
    assert_eq!((error.kind, error.errno), (RemoteErrorKind::Invalid, Some(libc::E2BIG)), "{error}");
}

/// Values arrive as they are: bytes that are not text, line feeds, nothing at all.
#[test]
fn values_of_variables_are_bytes() {
    let guest = Guest::start();
    let mut spec = shell("printf '%s|%s|%s' \"$RAW\" \"$LINES_\" \"${EMPTY-unset}\" | od -An -tx1 -v");
    spec.env.extend([("LINES_".to_owned(), "a\nb".to_owned()), ("EMPTY".to_owned(), String::new())]);
    spec.env_bytes.push(("RAW".to_owned(), b"a\xffb".to_vec()));
    let (status, out, err) = run(&guest, spec);
    assert_eq!((status.code(), out.trim()), (0, "61 ff 62 7c 61 0a 62 7c"), "{err}");
    let mut control = guest.control();
    for (name, value) in [("", b"x".to_vec()), ("A=B", b"x".to_vec()), ("A", b"nul\0".to_vec())] {
        let spec = ProcessSpec { env_bytes: vec![(name.into(), value)], ..process(&["true"]) };
        assert_eq!(control.start("p", spec).unwrap_err().kind, RemoteErrorKind::Invalid, "{name:?}");
    }
}

/// A process outside of containers has all capabilities; a request for others is refused rather than ignored.
#[test]
fn capabilities_of_a_process_of_the_sandbox_cannot_be_changed() {
    let guest = Guest::start();
    let mut control = guest.control();
    let spec = ProcessSpec { capabilities: Some(Default::default()), ..process(&["true"]) };
    assert_eq!(control.start("p", spec).unwrap_err().kind, RemoteErrorKind::Unsupported);
}
