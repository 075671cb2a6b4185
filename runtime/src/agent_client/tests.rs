//! Sessions against a scripted agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hutch_agent_proto::{
    read_frame, write_frame, AgentFrame, Event, ExitStatus, Hello, HostFrame, Open, ProcessSpec, RemoteErrorKind,
    Request, Response, StdStream, MAX_FRAME, PROTOCOL_VERSION,
};

use super::fake::{FakeGuest, Peer};
use super::quota::Quota;
use super::{printable, AgentError, ChannelDeath, Session};

const SOON: Duration = Duration::from_secs(120);

fn session(script: impl Fn(&Peer, HostFrame) + Send + Sync + 'static) -> Session {
    let guest = FakeGuest::new(script);
    Session::accept(guest.push(), guest.connector(), SOON).unwrap()
}

fn silent(_: &Peer, _: HostFrame) {}

fn death_of(session: &Session) -> Arc<ChannelDeath> {
    assert!(session.wait_death(SOON), "the session lives on");
    session.death().unwrap()
}

#[test]
fn the_push_and_a_connection_both_make_a_session() {
    let guest = FakeGuest::new(|peer, frame| peer.reply(frame.id, Ok(Response::Done)));
    let pushed = Session::accept(guest.push(), guest.connector(), SOON).unwrap();
    let opened = Session::connect(guest.connector(), SOON).unwrap();
    pushed.ping(SOON).unwrap();
    opened.ping(SOON).unwrap();
    assert_eq!(pushed.agent().kernel, "6.12-fake");
}

#[test]
fn another_protocol_version_is_refused_naming_both_and_the_remedy() {
    let guest = FakeGuest::with_version(PROTOCOL_VERSION + 6, silent);
    let error = Session::accept(guest.push(), guest.connector(), SOON).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, AgentError::Version { .. }), "{error:?}");
    for part in [format!("version {}", PROTOCOL_VERSION + 6), format!("speaks {PROTOCOL_VERSION}")] {
        assert!(text.contains(&part), "{text}");
    }
    assert!(text.contains("hutch guest build"), "{text}");
}

#[test]
fn an_agent_that_does_not_greet_is_given_up() {
    let (host, _guest) = UnixStream::pair().unwrap();
    let deadline = Duration::from_millis(30);
    let error = Session::accept(host, FakeGuest::new(silent).connector(), deadline).err().unwrap();
    assert!(matches!(error, AgentError::Greeting(d) if d == deadline), "{error:?}");
}

#[test]
fn a_slow_trickle_does_not_stretch_the_greeting() {
    let (host, guest) = UnixStream::pair().unwrap();
    let trickle = thread::spawn(move || {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Open::Control).unwrap();
        for byte in bytes.into_iter().cycle() {
            if (&guest).write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let start = Instant::now();
    let result = Session::accept(host, FakeGuest::new(silent).connector(), Duration::from_millis(60));
    assert!(result.is_err());
    assert!(start.elapsed() < SOON);
    trickle.join().unwrap();
}

#[test]
fn a_stream_instead_of_the_push_is_refused() {
    let (host, guest) = UnixStream::pair().unwrap();
    write_frame(&mut &guest, &Open::Stream { token: "t".into(), stream: StdStream::Stdin }).unwrap();
    let error = Session::accept(host, FakeGuest::new(silent).connector(), SOON).err().unwrap();
    assert!(matches!(error, AgentError::Dead(_)), "{error:?}");
}

#[test]
fn replies_in_any_order_reach_their_callers() {
    let held: Mutex<Vec<HostFrame>> = Mutex::default();
    let session = session(move |peer, frame| {
        let mut held = held.lock().unwrap();
        held.push(frame);
        if held.len() == 20 {
            for frame in held.drain(..).rev() {
                let Request::WaitProcess { token } = &frame.request else { panic!("{frame:?}") };
                let code = token.parse().unwrap();
                peer.reply(frame.id, Ok(Response::Exited(ExitStatus::Code(code))));
            }
        }
    });
    thread::scope(|scope| {
        for code in 0..20u8 {
            let session = &session;
            scope.spawn(move || {
                let status = session.wait_process(&code.to_string(), Some(SOON)).unwrap();
                assert_eq!(status, Some(ExitStatus::Code(code)));
            });
        }
    });
}

#[test]
fn a_refusal_keeps_its_kind_and_leaves_the_session_alive() {
    let session = session(|peer, frame| match frame.request {
        Request::Ping => peer.reply(frame.id, Ok(Response::Done)),
        _ => peer.refuse(frame.id, RemoteErrorKind::ProgramNotFound, "no \x1b[31msuch"),
    });
    let error = session.start_process("t", None, ProcessSpec::default(), SOON).unwrap_err();
    assert_eq!(error.remote_kind(), Some(RemoteErrorKind::ProgramNotFound));
    assert!(!error.is_fatal());
    assert_eq!(error.remote().unwrap().message, "no \\u{1b}[31msuch");
    session.ping(SOON).unwrap();
}

#[test]
fn p_205_a_missed_deadline_fails_pending_and_later_calls_at_once() {
    let session = session(silent);
    thread::scope(|scope| {
        let (started, ready) = mpsc::channel();
        let waiter = scope.spawn({
            let session = &session;
            move || {
                started.send(()).unwrap();
                session.wait_process("t", None)
            }
        });
        ready.recv().unwrap();
        let error = session.ping(Duration::from_millis(30)).unwrap_err();
        assert!(matches!(error, AgentError::Deadline { what: "ping", .. }), "{error:?}");
        assert!(matches!(waiter.join().unwrap(), Err(AgentError::Dead(_))));
    });
    let start = Instant::now();
    assert!(matches!(session.ping(SOON), Err(AgentError::Dead(_))));
    assert!(matches!(session.open_stream("t", StdStream::Stdin, SOON), Err(AgentError::Dead(_))));
    assert!(start.elapsed() < SOON / 4);
    assert!(matches!(*session.death().unwrap(), ChannelDeath::Silent { what: "ping", .. }));
}

#[test]
fn a_wait_with_a_timeout_does_not_kill_the_session_and_a_late_answer_is_ignored() {
    let held: Mutex<Option<u64>> = Mutex::default();
    let session = session(move |peer, frame| match frame.request {
        Request::WaitProcess { .. } => *held.lock().unwrap() = Some(frame.id),
        _ => {
            if let Some(id) = held.lock().unwrap().take() {
                peer.reply(id, Ok(Response::Exited(ExitStatus::Code(0))));
            }
            peer.reply(frame.id, Ok(Response::Done));
        }
    });
    assert_eq!(session.wait_process("t", Some(Duration::from_millis(20))).unwrap(), None);
    session.ping(SOON).unwrap();
    session.ping(SOON).unwrap();
}

#[test]
fn a_guest_that_hangs_up_ends_every_wait() {
    let session = session(|peer, _| peer.close());
    assert!(matches!(session.wait_process("t", None), Err(AgentError::Dead(_))));
    assert!(matches!(*death_of(&session), ChannelDeath::ClosedByGuest));
}

#[test]
fn garbage_and_oversized_and_cut_frames_end_the_session() {
    let mut cut = 20u32.to_le_bytes().to_vec();
    cut.extend(b"{\"event\"");
    for bytes in [
        [&3u32.to_le_bytes()[..], b"{{{"].concat(),
        (MAX_FRAME as u32 + 1).to_le_bytes().to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        cut,
    ] {
        let session = session({
            let bytes = bytes.clone();
            move |peer, _| {
                peer.raw(&bytes);
                peer.close();
            }
        });
        assert!(matches!(session.ping(SOON), Err(AgentError::Dead(_))), "{bytes:?}");
        assert!(matches!(*session.death().unwrap(), ChannelDeath::Broken(_)), "{bytes:?}");
    }
}

#[test]
fn an_answer_to_a_request_never_made_ends_the_session() {
    let session = session(|peer, frame| peer.reply(frame.id + 1, Ok(Response::Done)));
    assert!(matches!(session.ping(SOON), Err(AgentError::Dead(_))));
    assert!(matches!(*session.death().unwrap(), ChannelDeath::UnknownReply(1)));
}

#[test]
fn an_answer_of_the_wrong_kind_is_an_error_of_its_own() {
    let session = session(|peer, frame| peer.reply(frame.id, Ok(Response::Started { pid: 1 })));
    assert!(matches!(session.ping(SOON), Err(AgentError::Unexpected("ping"))));
}

#[test]
fn a_request_too_large_for_a_frame_fails_alone() {
    let session = session(|peer, frame| peer.reply(frame.id, Ok(Response::Done)));
    let spec = ProcessSpec { args: vec!["x".repeat(MAX_FRAME)], ..ProcessSpec::default() };
    let error = session.start_process("t", None, spec, SOON).unwrap_err();
    assert!(matches!(error, AgentError::Encode { .. }), "{error:?}");
    session.ping(SOON).unwrap();
}

#[test]
fn events_reach_listeners_and_their_end_is_the_sessions_end() {
    let session = session(|peer, frame| {
        peer.event(Event::Log { level: "info".into(), message: "not for listeners".into() });
        peer.event(Event::OutOfMemory { container: "c".into() });
        peer.reply(frame.id, Ok(Response::Done));
    });
    let events = session.events();
    session.ping(SOON).unwrap();
    assert_eq!(events.recv_timeout(SOON).unwrap(), Event::OutOfMemory { container: "c".into() });
    drop(session);
    assert!(events.recv_timeout(SOON).is_err());
}

#[test]
fn a_flood_of_events_does_not_grow_memory_or_block_replies() {
    let session = session(|peer, frame| {
        for _ in 0..5000 {
            peer.event(Event::OutOfMemory { container: "c".into() });
        }
        peer.reply(frame.id, Ok(Response::Done));
    });
    let events = session.events();
    session.ping(SOON).unwrap();
    assert_eq!(events.try_iter().count(), super::session::EVENT_QUEUE);
}

#[test]
fn callbacks_get_the_answer_or_the_death_once() {
    let session = session(|peer, frame| match frame.request {
        Request::Ping => peer.reply(frame.id, Ok(Response::Done)),
        _ => peer.close(),
    });
    let (tell, answers) = mpsc::channel();
    for request in [Request::Ping, Request::PowerOff, Request::Ping] {
        let tell = tell.clone();
        session.call_then(request, move |result| tell.send(result.is_ok()).unwrap());
        if answers.recv_timeout(SOON).unwrap() {
            continue;
        }
    }
    drop((tell, session));
    assert!(answers.recv().is_err(), "a callback ran twice");
}

#[test]
fn power_off_is_answered_by_the_sessions_end() {
    let session = session(|peer, frame| match frame.request {
        Request::PowerOff => peer.close(),
        other => panic!("{other:?}"),
    });
    session.power_off(SOON).unwrap();
    assert!(session.death().is_some());
}

#[test]
fn streams_carry_bytes_of_their_process() {
    let guest = FakeGuest::new(silent);
    let session = Session::accept(guest.push(), guest.connector(), SOON).unwrap();
    let mut host = session.open_stream("p1", StdStream::Stdout, SOON).unwrap();
    let mut end = guest.stream("p1", StdStream::Stdout);
    end.write_all(b"bytes").unwrap();
    drop(end);
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bytes");
}

#[test]
fn dropping_a_session_closes_it_and_leaves_no_thread() {
    let (host, guest) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        write_frame(&mut &guest, &Open::Control).unwrap();
        let hello = Hello { version: PROTOCOL_VERSION, program: String::new(), kernel: String::new() };
        write_frame(&mut &guest, &hello).unwrap();
        assert!(read_frame::<Hello>(&mut &guest).unwrap().is_some());
        assert!(read_frame::<AgentFrame>(&mut &guest).unwrap().is_none(), "EOF expected");
    });
    // `drop` joins the reader; the agent sees the end of the connection.
    drop(Session::accept(host, FakeGuest::new(silent).connector(), SOON).unwrap());
    agent.join().unwrap();
}

#[test]
fn text_of_the_guest_can_not_drive_the_terminal() {
    assert_eq!(printable("a\u{1b}[2Jb\r\nc\n", 100), "a\\u{1b}[2Jb\\r\\nc");
    assert_eq!(printable("ééé", 2), "éé…");
}

/// An agent that was taken over. Whatever it sends: what the host keeps of it is bounded by counts, every call ends, and
/// nothing that could control a terminal gets through.
#[test]
fn what_a_hostile_agent_sends_is_bounded() {
    const FLOOD: usize = 1_500;
    let flood = |peer: &Peer| {
        let long = "x".repeat(20_000);
        for n in 0..FLOOD {
            let token = if n % 2 == 0 { format!("t{n}") } else { long.clone() };
            peer.event(Event::Exited { token, status: ExitStatus::Code(0) });
            peer.event(Event::OutOfMemory { container: if n % 2 == 0 { "c".into() } else { long.clone() } });
            peer.event(Event::Log { level: "error".into(), message: long.clone() });
        }
    };
    let session = session(move |peer, frame| match frame.request {
        Request::Ping => {
            flood(peer);
            // The answer, and again.
            (0..100).for_each(|_| peer.reply(frame.id, Ok(Response::Done)));
        }
        Request::ListProcesses { .. } => {
            let command = format!("\u{1b}]0;owned\u{7}{}", "y".repeat(1 << 20));
            let tty = "\u{1b}[2J".repeat(1000);
            let (pid, ppid, uid, cpu_ms, start_secs, token) = (1, 0, 0, 0, 0, Some("z".repeat(1 << 20)));
            let process = hutch_agent_proto::ProcessInfo { pid, ppid, uid, cpu_ms, start_secs, tty, command, token };
            peer.reply(frame.id, Ok(Response::Processes(vec![process])));
        }
        // Never answered.
        _ => {}
    });
    let events = session.events();
    // Behind a flood of some 100 MB, which takes long on a busy host.
    session.ping(SOON * 12).unwrap();
    let kept: Vec<Event> = events.try_iter().collect();
    assert!(!kept.is_empty() && kept.len() <= super::session::EVENT_QUEUE, "{}", kept.len());
    for event in &kept {
        let length = match event {
            Event::Exited { token, .. } => token.len(),
            Event::OutOfMemory { container } => container.len(),
            other => panic!("{other:?}"),
        };
        assert!(length <= 192, "{length}");
    }
    let list = session.list_processes("c", SOON).unwrap();
    assert!(list[0].command.len() < 100_000 && list[0].tty.len() < 200, "{}", list[0].command.len());
    assert_eq!(list[0].token, None);
    assert!(!list[0].command.contains('\u{1b}') && !list[0].tty.contains('\u{1b}'));
    // A wait without an answer leaves nothing behind, however often it is made.
    for _ in 0..100 {
        assert!(session.wait_process("t", Some(Duration::ZERO)).unwrap().is_none());
    }
    assert_eq!(session.pending(), 0);
    session.ping(SOON).expect("it still works");
}

/// A wait has an end also while the guest sends without one.
#[test]
fn waits_end_in_a_flood_of_events() {
    let event = hutch_agent_proto::encode_frame(&AgentFrame::Event(Event::OutOfMemory { container: "c".into() }));
    let event = event.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let session =
        session(move |peer, _| while !stopped.load(std::sync::atomic::Ordering::SeqCst) && peer.raw(&event) {});
    session.call_then(Request::Ping, drop);
    let _events = session.events();
    session.wait_death(Duration::from_millis(50));
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
}

/// An agent that sends events, or answers that no caller waits for, without end is cut off, with an error of its own.
#[test]
fn an_agent_that_floods_is_cut_off() {
    let event = AgentFrame::Event(Event::OutOfMemory { container: "c".into() });
    let log = AgentFrame::Event(Event::Log { level: "info".into(), message: "m".into() });
    let again = AgentFrame::Reply { id: 0, result: Ok(Response::Done) };
    for frame in [event, log, again] {
        let bytes = hutch_agent_proto::encode_frame(&frame).unwrap().repeat(500);
        // The session's end ends the sending.
        let guest = FakeGuest::new(move |peer, _| while peer.raw(&bytes) {});
        // A small bucket that hardly refills: a busy machine may not read faster than another does.
        let quota = Quota::of(100, 1, Instant::now());
        let session = Session::accept_with(guest.push(), guest.connector(), SOON, quota).unwrap();
        session.call_then(Request::Ping, drop);
        let death = session.wait_death(Duration::from_secs(120)).then(|| session.death().unwrap());
        assert!(matches!(death.as_deref(), Some(ChannelDeath::Flood)), "{frame:?}: {death:?}");
        assert!(matches!(session.ping(SOON), Err(AgentError::Dead(_))));
    }
}

/// Each of these ends the session, at once, whatever else was promised.
#[test]
fn frames_that_no_agent_sends_end_the_session() {
    let huge = u32::MAX.to_le_bytes();
    let deep = "[".repeat(1 << 20);
    let deep = [&(deep.len() as u32).to_le_bytes(), deep.as_bytes()].concat();
    let future = AgentFrame::Reply { id: u64::MAX, result: Ok(Response::Done) };
    let future = hutch_agent_proto::encode_frame(&future).unwrap();
    for bytes in [huge.to_vec(), deep, future, b"\x02\x00\x00\x00{}".to_vec(), vec![0; 4]] {
        let session = session(move |peer, _| assert!(peer.raw(&bytes)));
        session.call_then(Request::Ping, drop);
        death_of(&session);
        assert!(matches!(session.ping(SOON), Err(AgentError::Dead(_))));
    }
}
