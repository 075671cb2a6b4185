//! Processes that enter a running container.

use hutch_agent_proto::{
    CapabilitySets, ExitStatus, ProcessSpec, RemoteErrorKind, Request, Response, Rlimit, StdStream, WindowSize,
};

use crate::bundle::{config, create, run, script, start};
use crate::support::Control;

fn enter(control: &mut Control, token: &str, process: ProcessSpec) -> Result<Response, hutch_agent_proto::RemoteError> {
    let container = Some("c".to_owned());
    control.call(Request::StartProcess { token: token.into(), container, process: Box::new(process) })
}

fn command(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![("PATH".into(), "/bin".into()), ("X".into(), "y".into())],
        ..ProcessSpec::default()
    }
}

#[test]
fn a_process_enters_with_its_own_user_directory_and_environment() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sleep", "1000"]));
    let process = ProcessSpec {
        user: "joe".into(),
        groups: vec!["staff".into()],
        cwd: "/home/joe".into(),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 77, hard: 88 }],
        ..command(&[
            "sh",
            "-c",
            "id; pwd; echo $X $HOME; hostname; ulimit -n; ps -o pid,args | grep -c 'sleep 1000'; exit 5",
        ])
    };
    enter(&mut control, "e", process).unwrap();
    let (out, err) = (guest.read("e", StdStream::Stdout), guest.read("e", StdStream::Stderr));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(control.wait("e"), ExitStatus::Code(5), "{out} {err}");
    assert!(lines[0].contains("uid=1000") && lines[0].contains("50"), "{out}");
    assert_eq!(&lines[1..5], ["/home/joe", "y /home/joe", "box", "77"], "{out} {err}");
    assert_ne!(lines[5], "0", "it sees the container's processes: {out}");
    control.done(Request::ForgetProcess { token: "e".into() });
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

#[test]
fn processes_of_a_container_are_listed_with_their_tokens() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sleep", "1000"]));
    enter(&mut control, "e", command(&["sleep", "2000"])).unwrap();
    let Ok(Response::Processes(list)) = control.call(Request::ListProcesses { id: "c".into() }) else { panic!() };
    let of = |token: &str| list.iter().find(|process| process.token.as_deref() == Some(token));
    assert_eq!(list.len(), 2, "{list:?}");
    assert!(of("c").is_some_and(|process| process.command.contains("sleep 1000")), "{list:?}");
    assert!(of("e").is_some_and(|process| process.command.contains("sleep 2000")), "{list:?}");
    control.signal("e", 15, false).unwrap();
    assert_eq!(control.wait("e"), ExitStatus::Signal(15));
    // The end of the container is the end of those that entered it.
    enter(&mut control, "f", command(&["sleep", "3000"])).unwrap();
    control.done(Request::KillContainer { id: "c".into(), signal: 9, all: false });
    assert_eq!(control.wait("f"), ExitStatus::Signal(9));
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

#[test]
fn a_process_that_cannot_enter_is_refused_with_the_reason() {
    let Some((guest, mut control)) = start() else { return };
    let kind = |result: Result<Response, hutch_agent_proto::RemoteError>| result.expect_err("a refusal").kind;
    assert_eq!(kind(enter(&mut control, "e", command(&["true"]))), RemoteErrorKind::NotFound);
    // P-121: also a container that has not been started.
    control.call(create("c", config(&guest, &["sleep", "1000"]))).unwrap();
    enter(&mut control, "early", command(&["true"])).unwrap();
    assert_eq!(control.wait("early"), ExitStatus::Code(0));
    control.done(Request::StartContainer { id: "c".into() });
    assert_eq!(kind(enter(&mut control, "e", command(&["/no/such"]))), RemoteErrorKind::ProgramNotFound);
    assert_eq!(kind(enter(&mut control, "e", command(&["/etc/passwd"]))), RemoteErrorKind::ProgramNotExecutable);
    assert_eq!(kind(enter(&mut control, "e", command(&[]))), RemoteErrorKind::Invalid);
    let unknown = ProcessSpec { user: "no-such-user".into(), ..command(&["true"]) };
    assert!(enter(&mut control, "e", unknown).is_err());
    enter(&mut control, "e", command(&["true"])).unwrap();
    assert_eq!(control.wait("e"), ExitStatus::Code(0), "the token was free all the time");
    control.done(Request::KillContainer { id: "c".into(), signal: 9, all: true });
    control.wait("c");
    assert_eq!(kind(enter(&mut control, "g", command(&["true"]))), RemoteErrorKind::WrongState);
    control.done(Request::RemoveContainer { id: "c".into(), force: false });
}

#[test]
fn a_process_that_enters_can_have_a_terminal() {
    let Some((guest, mut control)) = start() else { return };
    run(&mut control, "c", config(&guest, &["sleep", "1000"]));
    let terminal = Some(WindowSize { rows: 5, cols: 6 });
    enter(&mut control, "e", ProcessSpec { terminal, ..command(&["sh", "-c", "tty; stty size"]) }).unwrap();
    let out = guest.read("e", StdStream::Terminal);
    assert!(out.contains("/dev/pts/") && out.contains("5 6"), "{out}");
    assert_eq!(control.wait("e"), ExitStatus::Code(0));
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

/// As with other runtimes: a document without capabilities gives none, to the first process and to later ones. A process
/// that enters can have others than the container's.
#[test]
fn capabilities_are_those_that_were_named() {
    const LOOK: [&str; 3] = ["grep", "Cap", "/proc/self/status"];
    let bits = |text: &str| -> Vec<(String, String)> {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(set, bits)| (set.to_owned(), bits.trim().trim_start_matches('0').to_owned())).collect()
    };
    let Some((guest, mut control)) = start() else { return };
    for absent in [None, Some(serde_json::Value::Null)] {
        let mut document = config(&guest, &LOOK);
        let process = document["process"].as_object_mut().unwrap();
        process.remove("capabilities");
        process.extend(absent.map(|null| ("capabilities".to_owned(), null)));
        let (code, out, err) = script(&guest, &mut control, document);
        assert_eq!(code, 0, "{out} {err}");
        assert_eq!(bits(&out).len(), 5, "{out}");
        assert!(bits(&out).iter().all(|(_, bits)| bits.is_empty()), "{out}");
    }
    run(&mut control, "c", config(&guest, &["sleep", "1000"]));
    let kill = CapabilitySets {
        bounding: vec!["CAP_KILL".into()],
        permitted: vec!["CAP_KILL".into()],
        effective: vec!["CAP_KILL".into()],
        ..CapabilitySets::default()
    };
    for (token, capabilities, expected) in
        [("own", None, "e1"), ("less", Some(kill), "20"), ("none", Some(CapabilitySets::default()), "")]
    {
        enter(&mut control, token, ProcessSpec { capabilities, ..command(&LOOK) }).unwrap();
        let out = guest.read(token, StdStream::Stdout);
        assert_eq!(control.wait(token), ExitStatus::Code(0));
        let bits = bits(&out);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let found = bits.iter().find(|(name, _)| name == set).map(|(_, bits)| bits.as_str());
            assert_eq!(found, Some(expected), "{token}: {out}");
        }
        control.done(Request::ForgetProcess { token: token.into() });
    }
    control.done(Request::RemoveContainer { id: "c".into(), force: true });
}

/// Names of the request are looked up in the container's own files, whatever the document says.
#[test]
fn p_124_the_user_of_the_request_is_the_user_of_the_process() {
    let Some((guest, mut control)) = start() else { return };
    let mut document = config(&guest, &["sh", "-c", "id; echo $HOME"]);
    document["annotations"] = serde_json::json!({"dev.hutch.process.user": "0:0", "dev.hutch.process.groups": "0"});
    let Request::CreateContainer { id, token, spec, terminal_size, stdin, .. } = create("u", document) else {
        panic!("another request")
    };
    let (user, groups) = (Some("joe".to_owned()), vec!["staff".to_owned()]);
    let created = control.call(Request::CreateContainer { id, token, spec, user, groups, terminal_size, stdin });
    assert!(matches!(created, Ok(Response::Started { .. })), "{created:?}");
    control.done(Request::StartContainer { id: "u".into() });
    let out = guest.read("u", StdStream::Stdout);
    assert_eq!(control.wait("u"), ExitStatus::Code(0));
    assert!(out.contains("uid=1000") && out.contains("50") && out.contains("/home/joe"), "{out}");
    control.done(Request::RemoveContainer { id: "u".into(), force: false });
}
