//! The protocol itself: greetings, malformed input, limits, power-off.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use hutch_agent_proto::*;
use support::*;

/// Whether the agent closes the connection, possibly after more bytes.
fn is_closed(mut stream: UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::ECONNRESET),
    }
}

#[test]
fn the_agent_introduces_itself() {
    let guest = Guest::start();
    let hello = guest.control().hello;
    assert_eq!(hello.version, PROTOCOL_VERSION);
    assert_eq!(hello.program, format!("hutch-agent {}", env!("CARGO_PKG_VERSION")));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(hello.kernel, release.trim());
}

#[test]
fn a_ready_agent_pushes_its_greeting() {
    let dir = tempfile::tempdir().unwrap();
    let push = dir.path().join("push.sock");
    let listener = UnixListener::bind(&push).unwrap();
    let program = env!("CARGO_BIN_EXE_hutch-agent-unix");
    let arguments = [dir.path().join("agent.sock"), dir.path().join("run"), push];
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(read_frame::<Open>(&mut stream).unwrap(), Some(Open::Control));
    let mut control = Control::greet(stream);
    control.done(Request::Ping);
    control.start("p", shell("exit 6")).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Code(6));
    control.send(Request::PowerOff);
    assert!(child.wait().unwrap().success());
}

#[test]
fn another_version_gets_a_greeting_and_no_more() {
    let guest = Guest::start();
    let mut watching = guest.watch();
    let mut stream = guest.connect();
    write_frame(&mut stream, &Open::Control).unwrap();
    let hello = Hello { version: PROTOCOL_VERSION + 1, program: "future".into(), kernel: String::new() };
    write_frame(&mut stream, &hello).unwrap();
    // The agent does not read this; it may have closed the connection already.
    let _ = write_frame(&mut stream, &HostFrame { id: 1, request: Request::Ping });
    let answer: Hello = read_frame(&mut stream).unwrap().unwrap();
    assert_eq!(answer.version, PROTOCOL_VERSION);
    assert!(is_closed(stream));
    let message = watching.event(|event| match event {
        Event::Log { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(message.contains("future") && message.contains("version"), "{message}");
}

#[test]
fn a_malformed_frame_ends_its_connection_only() {
    let guest = Guest::start();
    let mut bystander = guest.control();
    let too_long = (MAX_FRAME as u32 + 1).to_le_bytes().to_vec();
    let framed = |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], payload].concat();
    for bytes in [too_long, framed(b"\xff\xfe"), framed(b"{}"), framed(b"{\"id\":1}"), framed(b""), framed(b"[[[[")] {
        // As the first frame of a connection, and as a request.
        let mut first = guest.connect();
        first.write_all(&bytes).unwrap();
        assert!(is_closed(first), "{bytes:?}");
        let mut control = guest.control();
        control.stream.write_all(&bytes).unwrap();
        assert!(is_closed(control.stream), "{bytes:?}");
    }
    // Half a frame, then the end of the stream.
    let mut half = guest.connect();
    half.write_all(&[200, 0, 0, 0, b'{']).unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(half));
    bystander.done(Request::Ping);
}

#[test]
fn deeply_nested_input_does_not_exhaust_the_stack() {
    let guest = Guest::start();
    let mut control = guest.control();
    let payload = [&br#"{"id":1,"request":"#[..], &b"[".repeat(1 << 20)].concat();
    control.stream.write_all(&(payload.len() as u32).to_le_bytes()).unwrap();
    control.stream.write_all(&payload).unwrap();
    assert!(is_closed(control.stream));
    guest.control().done(Request::Ping);
}

#[test]
fn an_unknown_request_is_unsupported_and_harmless() {
    let guest = Guest::start();
    let mut control = guest.control();
    let unknown = serde_json::json!({"id": 99, "request": {"levitate": {"height": 3}}});
    write_frame(&mut control.stream, &unknown).unwrap();
    assert_eq!(control.reply(99).unwrap_err().kind, RemoteErrorKind::Unsupported);
    control.done(Request::Ping);
}

#[test]
fn containers_are_unsupported_in_this_agent() {
    let guest = Guest::start();
    let mut control = guest.control();
    let process = Box::new(process(&["true"]));
    for request in [
        Request::StartContainer { id: "c".into() },
        Request::Stats { id: "c".into() },
        Request::StartProcess { token: "t".into(), container: Some("c".into()), process },
    ] {
        assert_eq!(control.call(request).unwrap_err().kind, RemoteErrorKind::Unsupported);
    }
}

#[test]
fn connections_are_limited_and_the_agent_recovers() {
    let guest = Guest::start();
    let mut control = guest.control();
    let many: Vec<_> = (0..1100).map(|_| UnixStream::connect(guest.socket()).unwrap()).collect();
    // Those over the limit are closed at once.
    let mut last = many.last().unwrap();
    last.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    control.done(Request::Ping);
    drop(many);
    eventually("connections are left", || {
        std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap().count() < 20
    });
    guest.control().done(Request::Ping);
}

#[test]
fn a_host_that_leaves_while_waiting_leaves_nothing() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", ProcessSpec { stdin: true, ..process(&["cat"]) }).unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().count();
    let before = descriptors();
    for _ in 0..10 {
        let mut other = guest.control();
        other.send(Request::WaitProcess { token: "p".into() });
        other.done(Request::Ping);
    }
    eventually("connections are left", || descriptors() <= before);
    control.signal("p", 9, false).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Signal(9));
}

#[test]
fn power_off_ends_all_processes() {
    let mut guest = Guest::start();
    let mut control = guest.control();
    let script =
        "trap '' TERM HUP INT; setsid sleep 1000 >/dev/null 2>&1 & echo $!; exec >&-; while :; do sleep 1000; done";
    control.start("p", shell(script)).unwrap();
    let orphan = guest.read("p", StdStream::Stdout).trim().to_string();
    let before = std::time::Instant::now();
    control.send(Request::PowerOff);
    assert!(guest.join().success());
    assert!(is_closed(control.stream), "without a reply");
    assert!(!std::path::Path::new("/proc").join(&orphan).exists(), "process {orphan} is left");
    println!("powered off in {:?}", before.elapsed());
}
