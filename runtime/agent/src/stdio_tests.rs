//! Tests of the relay loop over socket pairs, pipes and a terminal.

use super::*;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use hutch_agent_proto::WindowSize;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::time::{clock_gettime, ClockId};
use nix::unistd::pipe2;

use crate::root::RootDir;

fn nonblocking(fd: OwnedFd) -> OwnedFd {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    fd
}

/// Starts a relay on a thread that returns the CPU time it used.
fn start(ends: Ends, close: Option<CloseInput>) -> (UnixStream, JoinHandle<Duration>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let relay = Relay::new(Arc::new(ours.into()), ends, close);
    let thread = std::thread::spawn(move || {
        relay.run().unwrap();
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
    });
    (theirs, thread)
}

/// A relay of a stdout pipe: the host's stream and the process's end.
fn output() -> (UnixStream, File, JoinHandle<Duration>) {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (host, thread) = start(Ends::Output(nonblocking(read_end)), None);
    (host, write_end.into(), thread)
}

/// A relay of a stdin pipe.
fn input(close: Option<CloseInput>) -> (UnixStream, File, JoinHandle<Duration>) {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (host, thread) = start(Ends::Input(nonblocking(write_end)), close);
    (host, read_end.into(), thread)
}

fn terminal(close: Option<CloseInput>) -> (UnixStream, File, JoinHandle<Duration>) {
    let root = RootDir::open(Path::new("/")).unwrap();
    let (master, peer) = pty::open_pair(&root, WindowSize { rows: 24, cols: 80 }).unwrap();
    let (host, thread) = start(Ends::Terminal(Arc::new(master)), close);
    (host, peer.into(), thread)
}

#[test]
fn output_arrives_whole_and_ends() {
    let (mut host, mut process, thread) = output();
    let writer = std::thread::spawn(move || {
        for chunk in 0..64u8 {
            process.write_all(&vec![chunk; 100_000]).unwrap();
        }
    });
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    let expected: Vec<u8> = (0..64u8).flat_map(|chunk| vec![chunk; 100_000]).collect();
    assert!(bytes == expected, "{} bytes", bytes.len());
    writer.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn output_waits_for_a_slow_host_with_bounded_memory() {
    let (mut host, process, thread) = output();
    let process = File::from(nonblocking(process.into()));
    let mut accepted = 0;
    let mut idle = 0;
    // The relay runs on another thread, so the pipe is full only when it takes no bytes for a while.
    while idle < 20 {
        match (&process).write(&[7; 65536]) {
            Ok(n) => {
                accepted += n;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(accepted < 16 << 20, "nothing stops the process");
    }
    drop(process);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), accepted);
    thread.join().unwrap();
}

#[test]
fn a_host_that_closes_an_output_breaks_the_pipe() {
    let (host, mut process, thread) = output();
    drop(host);
    thread.join().unwrap();
    let error = process.write_all(b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn a_host_that_only_stops_sending_still_gets_output() {
    let (mut host, mut process, thread) = output();
    host.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    process.write_all(b"still here").unwrap();
    drop(process);
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    thread.join().unwrap();
}

#[test]
fn input_arrives_whole_and_ends() {
    let (mut host, mut process, thread) = input(None);
    let writer = std::thread::spawn(move || {
        host.write_all(&vec![5; 3 << 20]).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        host
    });
    let mut bytes = Vec::new();
    process.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 3 << 20);
    writer.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_closed_host_still_delivers_what_it_sent() {
    let (mut host, mut process, thread) = input(None);
    host.write_all(&[5; 150_000]).unwrap();
    drop(host);
    let mut bytes = Vec::new();
    process.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 150_000);
    thread.join().unwrap();
}

#[test]
fn the_end_of_the_reader_ends_the_stream() {
    let (mut host, process, thread) = input(None);
    drop(process);
    thread.join().unwrap();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn close_input_comes_after_what_has_arrived() {
    let close = close_input().unwrap();
    let (mut host, mut process, thread) = input(Some(Arc::clone(&close)));
    host.write_all(&[9; 200_000]).unwrap();
    close.write(1).unwrap();
    let mut bytes = Vec::new();
    process.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 200_000);
    thread.join().unwrap();
}

#[test]
fn a_terminal_carries_both_directions_and_ends_with_its_last_user() {
    let (mut host, mut process, thread) = terminal(None);
    host.write_all(b"hello\n").unwrap();
    let mut buf = [0; 100];
    let n = process.read(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"hello\n");
    process.write_all(b"bye\n").unwrap();
    drop(process);
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    // Echo of the input, then the output; a terminal turns line feeds into CR LF.
    assert_eq!(text, "hello\r\nbye\r\n");
    thread.join().unwrap();
}

#[test]
fn the_end_of_input_reaches_a_line_reader_once() {
    for (sent, reads) in [(&b""[..], &[&b""[..]][..]), (b"a\n", &[b"a\n", b""]), (b"part", &[b"part", b""])] {
        let (mut host, mut process, thread) = terminal(None);
        host.write_all(sent).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        for expected in reads {
            let mut buf = [0; 100];
            let n = process.read(&mut buf).unwrap();
            assert_eq!(&buf[..n], *expected, "after {sent:?}");
        }
        process.write_all(b"more output").unwrap();
        drop(process);
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
        assert!(bytes.ends_with(b"more output"), "{bytes:?}");
        thread.join().unwrap();
    }
}

#[test]
fn close_input_of_a_terminal_keeps_its_output() {
    let close = close_input().unwrap();
    let (mut host, mut process, thread) = terminal(Some(Arc::clone(&close)));
    close.write(1).unwrap();
    assert_eq!(process.read(&mut [0; 10]).unwrap(), 0);
    process.write_all(b"out").unwrap();
    drop(process);
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("out"), "{text:?}");
    thread.join().unwrap();
}

#[test]
fn a_host_that_closes_a_terminal_hangs_it_up() {
    let (host, mut process, thread) = terminal(None);
    drop(host);
    thread.join().unwrap();
    assert_eq!(process.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(process.write(b"x").unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[test]
fn an_idle_relay_does_not_spin() {
    // Descriptors that stay "ready" while the relay has no work: a host that shut down its direction; a host that left
    // while its input cannot be written yet; a terminal whose input is full.
    let (host, process, thread) = terminal(None);
    host.shutdown(Shutdown::Write).unwrap();
    let (full_host, full_process, full_thread) = input(None);
    (&full_host).write_all(&[1; 200_000]).unwrap();
    drop(full_host);
    std::thread::sleep(Duration::from_millis(300));
    drop(process);
    drop(full_process);
    for spent in [thread.join().unwrap(), full_thread.join().unwrap()] {
        assert!(spent < Duration::from_millis(100), "the relay used {spent:?} of CPU time in 300 ms");
    }
    drop(host);
}
