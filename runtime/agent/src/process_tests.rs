//! The table alone: the test reaps its children by hand, in every order relative to their registration.

use super::*;
use crate::connection::HostConnection;
use crate::sys::wait_for_end;
use hutch_agent_proto::{read_frame, AgentFrame};
use nix::errno::Errno;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

/// A child that ends at once with `code`.
fn child(code: i32) -> Child {
    let script = format!("exit {code}");
    let child = std::process::Command::new("/bin/sh").args(["-c", &script]).spawn().unwrap();
    let pid = child.id() as i32;
    // Reaped by the test, not by the standard library.
    drop(child);
    // SAFETY: pidfd_open returns a new descriptor for our own child, which has not been reaped yet.
    #[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
    let pidfd = unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0)).unwrap();
        OwnedFd::from_raw_fd(fd as i32)
    };
    Child { pid, pidfd }
}

/// Reaps one child as the reaper does, but blocks until it has ended.
fn reap(processes: &Processes, pid: i32) -> Option<ExitEvent> {
    processes.reap(pid, || loop {
        match wait_for_end(Some(pid), false) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) => std::thread::yield_now(),
            Err(_) => return None,
        }
    })
}

fn outbox() -> (Arc<Outbox>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (Outbox::new(Arc::new(HostConnection::from(ours))), theirs)
}

fn status_reply(stream: &mut UnixStream) -> (u64, ExitStatus) {
    match read_frame(stream).unwrap() {
        Some(AgentFrame::Reply { id, result: Ok(Response::Exited(status)) }) => (id, status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_status_after_the_registration_reaches_the_waiting_requests() {
    let processes = Processes::new(8);
    let (outbox, mut host) = outbox();
    let (pid, None) = processes.start("p", || Ok((child(3), Streams::default()))).unwrap() else { panic!("ended") };
    processes.wait("p", &outbox, 41).unwrap();
    let exit = reap(&processes, pid).unwrap();
    exit.reply();
    assert_eq!((exit.token.as_str(), exit.status), ("p", ExitStatus::Code(3)));
    assert_eq!(status_reply(&mut host), (41, ExitStatus::Code(3)));
    processes.wait("p", &outbox, 42).unwrap();
    assert_eq!(status_reply(&mut host), (42, ExitStatus::Code(3)));
}

#[test]
fn a_status_before_the_registration_is_kept() {
    let processes = Processes::new(8);
    let (outbox, mut host) = outbox();
    let (_, exit) = processes
        .start("p", || {
            let child = child(4);
            assert!(reap(&processes, child.pid).is_none(), "the table does not know it yet");
            Ok((child, Streams::default()))
        })
        .unwrap();
    assert_eq!(exit.expect("its end has not been reported").status, ExitStatus::Code(4));
    processes.wait("p", &outbox, 1).unwrap();
    assert_eq!(status_reply(&mut host), (1, ExitStatus::Code(4)));
}

#[test]
fn the_status_of_an_earlier_owner_of_the_pid_is_not_taken() {
    let processes = Processes::new(8);
    let (pid, exit) = processes
        .start("p", || {
            let child = child(5);
            // As if an orphan with that pid had been reaped since the start began.
            processes.reap(child.pid, || Some(ExitStatus::Code(99)));
            Ok((child, Streams::default()))
        })
        .unwrap();
    assert!(exit.is_none());
    assert_eq!(reap(&processes, pid).unwrap().status, ExitStatus::Code(5));
}

#[test]
fn unknown_pids_are_remembered_only_during_a_start() {
    let processes = Processes::new(8);
    assert!(processes.reap(1_000_000, || Some(ExitStatus::Code(0))).is_none());
    assert!(processes.lock().unclaimed.is_empty());
    let _ = processes.start("p", || {
        processes.reap(1_000_000, || Some(ExitStatus::Code(0)));
        assert_eq!(processes.lock().unclaimed.len(), 1);
        Err(not_found("no"))
    });
    assert!(processes.lock().unclaimed.is_empty());
}

#[test]
fn the_table_is_bounded_and_a_failed_start_frees_its_place() {
    let processes = Processes::new(2);
    assert!(processes.start("bad", || Err(not_found("no"))).is_err());
    for token in ["a", "b"] {
        let (pid, _) = processes.start(token, || Ok((child(0), Streams::default()))).unwrap();
        reap(&processes, pid).unwrap();
    }
    let error = processes.start("c", || unreachable!("over the limit")).err().unwrap();
    assert_eq!(error.kind, RemoteErrorKind::WrongState);
    processes.forget("a").unwrap();
    let (pid, _) = processes.start("c", || Ok((child(0), Streams::default()))).unwrap();
    reap(&processes, pid).unwrap();
}

#[test]
fn a_starting_process_is_not_there_yet() {
    let processes = Processes::new(8);
    let (outbox, _host) = outbox();
    let result = processes.start("p", || {
        for error in [
            processes.wait("p", &outbox, 1).unwrap_err(),
            processes.signal("p", 15, true).unwrap_err(),
            processes.resize("p", WindowSize { rows: 1, cols: 1 }).unwrap_err(),
        ] {
            assert!(matches!(error.kind, RemoteErrorKind::NotFound | RemoteErrorKind::WrongState), "{error:?}");
        }
        assert_eq!(processes.forget("p").unwrap_err().kind, RemoteErrorKind::WrongState);
        assert_eq!(processes.start("p", || unreachable!()).err().unwrap().kind, RemoteErrorKind::AlreadyExists);
        Err(not_found("no"))
    });
    assert_eq!(result.err().unwrap().kind, RemoteErrorKind::NotFound);
}

#[test]
fn waiting_requests_are_bounded_and_leave_with_their_connection() {
    let processes = Processes::new(8);
    let (outbox, _host) = outbox();
    let (pid, _) = processes.start("p", || Ok((child(0), Streams::default()))).unwrap();
    for id in 0..MAX_WAITERS {
        processes.wait("p", &outbox, id as u64).unwrap();
    }
    assert_eq!(processes.wait("p", &outbox, 0).unwrap_err().kind, RemoteErrorKind::WrongState);
    processes.drop_waiters(&outbox);
    processes.wait("p", &outbox, 0).unwrap();
    reap(&processes, pid).unwrap();
}

#[test]
fn the_reaper_wakes_for_every_spawn() {
    let processes = Arc::new(Processes::new(8));
    let spawn_count = processes.spawn_count();
    let waiting = Arc::clone(&processes);
    let thread = std::thread::spawn(move || waiting.wait_for_spawn(spawn_count));
    // The table knows that there are no children once the reaper waits.
    assert!(processes.wait_no_children(Duration::from_secs(20)));
    let _ = processes.start("p", || Err(not_found("even a failed start may leave a zombie")));
    thread.join().unwrap();
    assert!(!processes.wait_no_children(Duration::ZERO), "the reaper has not looked again");
    // A spawn between looking and waiting is not missed.
    processes.wait_for_spawn(spawn_count);
}
