//! Standard streams end to end: pipes and terminals of real processes.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hutch_agent_proto::*;
use support::*;

/// Highest resident memory of a process so far, KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads until `text` has arrived.
fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let mut buf = [0; 1024];
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_quarter_of_a_gigabyte_passes_through_cat_in_flat_memory() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 256;
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("cat", ProcessSpec { stdin: true, ..process(&["cat"]) }).unwrap();
    let (mut stdin, mut stdout) = (guest.open("cat", StdStream::Stdin), guest.open("cat", StdStream::Stdout));
    let before = peak_memory(guest.pid());
    let pattern: Arc<[u8]> = (0..CHUNK + CHUNKS).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let expected = Arc::clone(&pattern);
    let writer = std::thread::spawn(move || {
        for number in 0..CHUNKS {
            stdin.write_all(&pattern[number..number + CHUNK]).unwrap();
        }
        stdin.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = vec![0; CHUNK];
    for number in 0..CHUNKS {
        stdout.read_exact(&mut received).unwrap();
        assert!(received == expected[number..number + CHUNK], "MiB {number} differs");
    }
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    writer.join().unwrap();
    assert_eq!(control.wait("cat"), ExitStatus::Code(0));
    let grown = peak_memory(guest.pid()) - before;
    assert!(grown < 2048, "the agent grew by {grown} KiB");
}

#[test]
fn output_waits_for_the_host_even_after_the_end() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", shell("echo early; echo bad >&2")).unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
    assert_eq!(guest.read("p", StdStream::Stdout), "early\n");
    assert_eq!(guest.read("p", StdStream::Stderr), "bad\n");
}

#[test]
fn a_stream_may_be_opened_before_its_process_is_known() {
    let guest = Guest::start();
    let mut early = guest.open("p", StdStream::Stdout);
    let mut control = guest.control();
    control.done(Request::Ping);
    control.start("p", shell("echo hello")).unwrap();
    let mut text = String::new();
    early.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[test]
fn an_impossible_stream_is_closed_with_a_reason() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", shell("echo once")).unwrap();
    assert_eq!(guest.read("p", StdStream::Stdout), "once\n");
    for (token, stream) in [("p", StdStream::Stdout), ("p", StdStream::Terminal), ("none", StdStream::Stdin)] {
        assert_eq!(guest.read(token, stream), "");
        control.event(|event| match event {
            Event::Log { message, .. } => message.contains("a stream is refused").then_some(()),
            _ => None,
        });
    }
}

#[test]
fn stdin_is_empty_unless_asked_for() {
    let guest = Guest::start();
    assert_eq!(output(&guest, shell("cat; readlink /proc/self/fd/0")), "/dev/null\n");
}

#[test]
fn close_stdin_ends_it() {
    let guest = Guest::start();
    let mut control = guest.control();
    for (token, sent) in [("unopened", None), ("opened", Some("some text"))] {
        control.start(token, ProcessSpec { stdin: true, ..process(&["cat"]) }).unwrap();
        let mut stdin = sent.map(|text| {
            let mut stdin = guest.open(token, StdStream::Stdin);
            stdin.write_all(text.as_bytes()).unwrap();
            stdin
        });
        if sent.is_some() {
            // When the text comes back it has arrived, not just been sent.
            let mut out = guest.open(token, StdStream::Stdout);
            read_until(&mut out, "some text");
            control.done(Request::CloseStdin { token: token.into() });
            assert_eq!(out.read(&mut [0]).unwrap(), 0);
        } else {
            control.done(Request::CloseStdin { token: token.into() });
        }
        assert_eq!(control.wait(token), ExitStatus::Code(0));
        if let Some(stdin) = &mut stdin {
            assert_eq!(stdin.read(&mut [0]).unwrap(), 0, "the stream has ended");
        }
    }
}

#[test]
fn a_host_that_closes_stdout_breaks_the_pipe() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("yes", process(&["yes"])).unwrap();
    let mut out = guest.open("yes", StdStream::Stdout);
    out.read_exact(&mut [0; 1000]).unwrap();
    drop(out);
    assert_eq!(control.wait("yes"), ExitStatus::Signal(libc::SIGPIPE));
}

#[test]
fn a_process_that_closes_stdin_ends_the_stream() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", ProcessSpec { stdin: true, ..shell("exec <&-; echo closed; sleep 1000") }).unwrap();
    let mut stdin = guest.open("p", StdStream::Stdin);
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
    control.signal("p", 9, true).unwrap();
}

#[test]
fn output_ends_with_the_last_writer() {
    let guest = Guest::start();
    let mut control = guest.control();
    control
        .start("p", ProcessSpec { stdin: true, ..shell("exec 3<&0; read line; (read line <&3; echo late) & exit 0") })
        .unwrap();
    let mut out = guest.open("p", StdStream::Stdout);
    let mut stdin = guest.open("p", StdStream::Stdin);
    stdin.write_all(b"first\n").unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
    send_all(&mut stdin, b"go\n");
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late\n");
}

fn terminal(script: &str) -> ProcessSpec {
    ProcessSpec { terminal: Some(WindowSize { rows: 33, cols: 99 }), ..shell(script) }
}

#[test]
fn a_terminal_is_controlling_and_has_its_size() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", terminal("stty size; test -t 0 && test -t 1 && test -t 2 && : > /dev/tty && echo yes")).unwrap();
    assert_eq!(guest.read("p", StdStream::Terminal), "33 99\r\nyes\r\n");
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
    // The relay closes the terminal just after the end of the stream.
    let size = WindowSize { rows: 1, cols: 1 };
    let closed = Err(RemoteErrorKind::WrongState);
    while guest.control().call(Request::ResizeTerminal { token: "p".into(), size }).map_err(|e| e.kind) != closed {}
}

#[test]
fn a_resize_is_seen_and_signalled() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", terminal("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done")).unwrap();
    let mut terminal = guest.open("p", StdStream::Terminal);
    read_until(&mut terminal, "ready");
    control.done(Request::ResizeTerminal { token: "p".into(), size: WindowSize { rows: 5, cols: 6 } });
    let mut rest = String::new();
    terminal.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "5 6");
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
}

#[test]
fn keys_become_signals() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", terminal("echo ready; exec sleep 1000")).unwrap();
    let mut terminal = guest.open("p", StdStream::Terminal);
    read_until(&mut terminal, "ready");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(control.wait("p"), ExitStatus::Signal(libc::SIGINT));
}

#[test]
fn a_host_that_closes_a_terminal_hangs_it_up() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", terminal("echo ready; exec sleep 1000")).unwrap();
    let mut terminal = guest.open("p", StdStream::Terminal);
    read_until(&mut terminal, "ready");
    drop(terminal);
    assert_eq!(control.wait("p"), ExitStatus::Signal(libc::SIGHUP));
}

#[test]
fn the_end_of_a_terminals_input_is_end_of_file() {
    let guest = Guest::start();
    let mut control = guest.control();
    for (token, opened) in [("request-unopened", false), ("request", true), ("half-close", true)] {
        control.start(token, terminal("echo ready; cat; echo end")).unwrap();
        if !opened {
            control.done(Request::CloseStdin { token: token.into() });
            assert!(guest.read(token, StdStream::Terminal).ends_with("end\r\n"));
        } else {
            let mut terminal = guest.open(token, StdStream::Terminal);
            read_until(&mut terminal, "ready");
            if token == "request" {
                control.done(Request::CloseStdin { token: token.into() });
            } else {
                terminal.shutdown(Shutdown::Write).unwrap();
            }
            // To its end: closing it earlier would hang up.
            let mut rest = String::new();
            terminal.read_to_string(&mut rest).unwrap();
            assert!(rest.ends_with("end\r\n"), "{rest:?}");
        }
        assert_eq!(control.wait(token), ExitStatus::Code(0));
    }
}

#[test]
fn a_large_output_through_a_terminal_is_whole() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", terminal("seq 1 200000")).unwrap();
    let text = guest.read("p", StdStream::Terminal);
    let expected: String = (1..=200_000).map(|number| format!("{number}\r\n")).collect();
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert_eq!(control.wait("p"), ExitStatus::Code(0));
}

#[test]
fn forgetting_drops_output_that_the_host_did_not_read() {
    let guest = Guest::start();
    let mut control = guest.control();
    control.start("p", shell("echo lost")).unwrap();
    control.wait("p");
    let pipes = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().flatten();
        entries
            .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:")))
            .count()
    };
    let before = pipes();
    control.done(Request::ForgetProcess { token: "p".into() });
    assert_eq!(pipes(), before - 2);
}
