//! Runs against a fake machine and a fake agent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hutch_agent_proto::{
    ExitStatus, HostFrame, ProcessSpec, RemoteErrorKind, Request, Response, SandboxSpec, StdStream, WindowSize,
};
use hutch_vmm::MachineExit;
use nix::fcntl::OFlag;

use super::*;
use crate::agent_client::fake::{FakeGuest, Peer};
use crate::stdio::StdioFds;

const SOON: Duration = Duration::from_secs(120);

#[derive(Default)]
struct FakeVm {
    end: Mutex<Option<MachineExit>>,
    changed: Condvar,
    grown: AtomicUsize,
}

impl FakeVm {
    fn end(&self, exit: MachineExit) {
        self.end.lock().unwrap().get_or_insert(exit);
        self.changed.notify_all();
    }
}

impl OneshotVm for FakeVm {
    fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        let end = self.end.lock().unwrap();
        let (end, _) = self.changed.wait_timeout_while(end, timeout.unwrap_or(SOON * 10), |end| end.is_none()).unwrap();
        end.clone()
    }

    fn stop(&self) {
        self.end(MachineExit::Stopped);
    }

    fn grow(&self) -> u64 {
        self.grown.fetch_add(1, Ordering::SeqCst);
        7 << 30
    }
}

/// A run under construction.
struct Bench {
    vm: Arc<FakeVm>,
    guest: FakeGuest,
    queue: RunEventQueue,
    marks: PhaseMarks,
    stdout: OwnedFd,
    task: OneshotTask,
    push: bool,
}

impl Bench {
    fn new(vm: &Arc<FakeVm>, script: impl Fn(&Peer, HostFrame) + Send + Sync + 'static) -> Self {
        let (stdout, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let process = ProcessSpec { args: vec!["prog".into()], ..ProcessSpec::default() };
        let task = OneshotTask {
            sandbox: SandboxSpec::default(),
            process,
            fds: StdioFds { stdout: Some(writer), ..StdioFds::default() },
            boot_timeout: SOON,
            timeout: None,
            stop: Stop::Flush,
            on_start: Box::new(|| {}),
        };
        let (vm, guest) = (Arc::clone(vm), FakeGuest::new(script));
        Self { vm, guest, queue: RunEventQueue::new(), marks: PhaseMarks::default(), stdout, task, push: true }
    }

    fn run(mut self) -> (Result<ExitStatus, RunError>, String, PhaseMarks) {
        let (tell, push) = mpsc::channel();
        if self.push {
            tell.send(self.guest.push()).unwrap();
        }
        let vm = Arc::clone(&self.vm);
        let result = run(vm, push, self.guest.connector(), self.task, &self.queue, &mut self.marks);
        assert!(self.vm.wait(Some(Duration::ZERO)).is_some(), "the machine still runs");
        self.guest.hang_up();
        let mut text = String::new();
        // The relay's copy of the pipe is closed when its thread ends, also after an error.
        File::from(self.stdout).read_to_string(&mut text).unwrap();
        (result, text, self.marks)
    }
}

/// Sends a harmless signal until the guest tells that it has got one: signals are forwarded from the moment on at which the
/// host knows that the command runs, and are dropped before.
fn probe(queue: &RunEventQueue, heard: mpsc::Receiver<()>) -> impl FnOnce() + Send + use<> {
    let sender = queue.sender();
    move || {
        while heard.recv_timeout(Duration::from_millis(5)).is_err() {
            sender.send(RunEvent::Signal { number: PROBE, whole_job: true });
        }
    }
}

/// The harmless signal.
const PROBE: i32 = 10;

fn vm() -> Arc<FakeVm> {
    Arc::default()
}

/// The agent of a command that reads no input and exits with 7.
fn simple(peer: &Peer, frame: HostFrame) {
    match frame.request {
        Request::StartProcess { .. } => peer.reply(frame.id, Ok(Response::Started { pid: 2 })),
        Request::WaitProcess { .. } => peer.reply(frame.id, Ok(Response::Exited(ExitStatus::Code(7)))),
        Request::PowerOff => peer.close(),
        _ => peer.reply(frame.id, Ok(Response::Done)),
    }
}

#[test]
fn output_and_exit_code_come_back() {
    let bench = Bench::new(&vm(), simple);
    let guest = bench.guest.clone();
    let command = thread::spawn(move || guest.stream("command", StdStream::Stdout).write_all(b"hi\n").unwrap());
    let (result, text, marks) = bench.run();
    assert_eq!((result.unwrap(), text.as_str()), (ExitStatus::Code(7), "hi\n"));
    command.join().unwrap();
    assert!(marks.0.iter().any(|(what, _)| *what == "agent ready"), "{marks:?}");
}

#[test]
fn memory_is_plugged_in_when_the_agent_is_there_and_the_agent_waits_for_it() {
    let vm = vm();
    let seen = Arc::clone(&vm);
    let (result, ..) = Bench::new(&vm, move |peer, frame| {
        if let Request::SetupSandbox(spec) = &frame.request {
            assert!(seen.grown.load(Ordering::SeqCst) > 0);
            assert_eq!(spec.memory_more, 7 << 30);
        }
        simple(peer, frame);
    })
    .run();
    assert_eq!(result.unwrap(), ExitStatus::Code(7));
}

#[test]
fn a_missing_program_is_told_apart_from_one_that_can_not_run() {
    for kind in [RemoteErrorKind::ProgramNotFound, RemoteErrorKind::ProgramNotExecutable, RemoteErrorKind::Invalid] {
        let (result, ..) = Bench::new(&vm(), move |peer, frame| match frame.request {
            Request::StartProcess { .. } => peer.refuse(frame.id, kind, "why"),
            _ => simple(peer, frame),
        })
        .run();
        match (kind, result.unwrap_err()) {
            (RemoteErrorKind::ProgramNotFound, RunError::ProgramNotFound { program, .. })
            | (RemoteErrorKind::ProgramNotExecutable, RunError::ProgramNotExecutable { program, .. }) => {
                assert_eq!(program, "prog");
            }
            (RemoteErrorKind::Invalid, RunError::Start(_)) => {}
            (kind, error) => panic!("{kind:?}: {error:?}"),
        }
    }
}

#[test]
fn a_refused_set_up_is_reported() {
    let (result, ..) = Bench::new(&vm(), |peer, frame| match frame.request {
        Request::SetupSandbox(_) => peer.refuse(frame.id, RemoteErrorKind::System, "mount root: EINVAL"),
        _ => simple(peer, frame),
    })
    .run();
    assert!(matches!(result, Err(RunError::SetUp(_))), "{result:?}");
}

#[test]
fn a_guest_that_dies_is_reported_with_how_in_every_phase() {
    // While booting.
    let vm = vm();
    let mut bench = Bench::new(&vm, simple);
    bench.push = false;
    vm.end(MachineExit::GuestPanic);
    let (result, ..) = bench.run();
    assert!(
        matches!(&result, Err(RunError::GuestEnded { exit: MachineExit::GuestPanic, when }) if when.contains("boot"))
    );

    // While the command runs: the message is the same whether the channel's end or the machine's is noticed first.
    for channel_first in [true, false] {
        let vm = self::vm();
        let dying = Arc::clone(&vm);
        let (said, heard) = mpsc::channel();
        let heard = Mutex::new(heard);
        let bench = Bench::new(&vm, move |peer, frame| match frame.request {
            Request::WaitProcess { .. } => {
                // The command has written before the guest dies.
                heard.lock().unwrap().recv().unwrap();
                if channel_first {
                    peer.close();
                    thread::sleep(Duration::from_millis(20));
                }
                dying.end(MachineExit::TripleFault);
                peer.close();
            }
            _ => simple(peer, frame),
        });
        let guest = bench.guest.clone();
        let command = thread::spawn(move || {
            guest.stream("command", StdStream::Stdout).write_all(b"last").unwrap();
            said.send(()).unwrap();
        });
        let (result, text, _) = bench.run();
        assert!(matches!(&result, Err(RunError::GuestEnded { exit: MachineExit::TripleFault, .. })), "{result:?}");
        assert_eq!(text, "last");
        command.join().unwrap();
    }
}

#[test]
fn an_agent_that_never_reports_is_given_up() {
    let mut bench = Bench::new(&vm(), simple);
    bench.push = false;
    bench.task.boot_timeout = Duration::from_millis(30);
    // The sender must stay alive: its end would count as the machine's.
    let (tell, push) = mpsc::channel();
    let vm = Arc::clone(&bench.vm);
    let result = run(vm, push, bench.guest.connector(), bench.task, &bench.queue, &mut bench.marks);
    drop(tell);
    assert_eq!(bench.vm.grown.load(Ordering::SeqCst), 0, "no command would use it");
    assert!(matches!(result, Err(RunError::BootTimeout(_))), "{result:?}");
}

#[test]
fn signals_and_sizes_reach_the_command() {
    let (told, heard) = mpsc::channel();
    let bench = {
        let seen: Mutex<(Vec<Request>, Option<u64>)> = Mutex::default();
        Bench::new(&vm(), move |peer, frame| {
            let mut seen = seen.lock().unwrap();
            match frame.request {
                Request::WaitProcess { .. } => seen.1 = Some(frame.id),
                Request::SignalProcess { signal: 12, .. } => {
                    peer.reply(frame.id, Ok(Response::Done));
                    let ok = matches!(
                        &seen.0[..],
                        [
                            Request::SignalProcess { signal: PROBE, all: true, .. },
                            Request::ResizeTerminal { size: WindowSize { rows: 3, cols: 4 }, .. },
                            Request::SignalProcess { signal: 15, all: false, .. },
                        ]
                    );
                    peer.reply(seen.1.unwrap(), Ok(Response::Exited(ExitStatus::Code(ok.into()))));
                }
                Request::SignalProcess { signal: PROBE, .. } if !seen.0.is_empty() => {
                    peer.reply(frame.id, Ok(Response::Done));
                }
                Request::SignalProcess { .. } | Request::ResizeTerminal { .. } => {
                    let _ = told.send(());
                    peer.reply(frame.id, Ok(Response::Done));
                    seen.0.push(frame.request);
                }
                _ => simple(peer, frame),
            }
        })
    };
    let mut bench = bench;
    bench.task.process.terminal = Some(WindowSize { rows: 1, cols: 2 });
    let (guest, sender) = (bench.guest.clone(), bench.queue.sender());
    let until_it_runs = probe(&bench.queue, heard);
    let command = thread::spawn(move || {
        let terminal = guest.stream("command", StdStream::Terminal);
        until_it_runs();
        sender.send(RunEvent::Resize(WindowSize { rows: 3, cols: 4 }));
        sender.send(RunEvent::Signal { number: 15, whole_job: false });
        sender.send(RunEvent::Signal { number: 12, whole_job: false });
        drop(terminal);
    });
    let (result, ..) = bench.run();
    assert_eq!(result.unwrap(), ExitStatus::Code(1));
    command.join().unwrap();
}

#[test]
fn a_signal_before_the_command_ends_the_run() {
    let mut bench = Bench::new(&vm(), simple);
    bench.push = false;
    bench.queue.sender().send(RunEvent::Signal { number: 10, whole_job: false });
    bench.queue.sender().send(RunEvent::Signal { number: 15, whole_job: false });
    let (result, ..) = bench.run();
    assert!(matches!(result, Err(RunError::Interrupted { signal: 15, .. })), "{result:?}");
}

#[test]
fn a_second_signal_ends_a_run_whose_guest_takes_none() {
    let (told, heard) = mpsc::channel();
    let bench = Bench::new(&vm(), move |peer, frame| match frame.request {
        Request::SignalProcess { signal: PROBE, .. } => drop(told.send(())),
        Request::WaitProcess { .. } | Request::SignalProcess { .. } => {}
        _ => simple(peer, frame),
    });
    let until_it_runs = probe(&bench.queue, heard);
    let (guest, sender) = (bench.guest.clone(), bench.queue.sender());
    let command = thread::spawn(move || {
        let stream = guest.stream("command", StdStream::Stdout);
        until_it_runs();
        sender.send(RunEvent::Signal { number: 15, whole_job: false });
        sender.send(RunEvent::Signal { number: 15, whole_job: false });
        drop(stream);
    });
    let (result, ..) = bench.run();
    assert!(matches!(result, Err(RunError::Interrupted { signal: 15, .. })), "{result:?}");
    command.join().unwrap();
}

#[test]
fn time_over_is_told_apart_from_a_hung_guest() {
    for hung in [false, true] {
        let mut bench = Bench::new(&vm(), move |peer, frame| match frame.request {
            Request::WaitProcess { .. } => {}
            Request::Ping if hung => {}
            _ => simple(peer, frame),
        });
        let after = Duration::from_secs(1);
        bench.task.timeout = Some((after, Instant::now() + after));
        let (result, ..) = bench.run();
        match result {
            Err(RunError::Timeout { .. }) => assert!(!hung),
            Err(RunError::Hung { .. }) => assert!(hung),
            other => panic!("{other:?}"),
        }
    }
}

/// The caller gave the run no time limit, so this is a failure and not its end by `--timeout`.
#[test]
fn a_guest_that_does_not_flush_is_an_error_of_its_own() {
    let bench = Bench::new(&vm(), |peer, frame| match frame.request {
        Request::PowerOff => {}
        _ => simple(peer, frame),
    });
    let (result, ..) = bench.run();
    assert!(matches!(result, Err(RunError::FlushTimeout(_))), "{result:?}");
}

#[test]
fn a_slow_caller_gets_all_output_before_the_end() {
    let bench = Bench::new(&vm(), simple);
    let guest = bench.guest.clone();
    let command = thread::spawn(move || {
        let mut stream = guest.stream("command", StdStream::Stdout);
        thread::sleep(Duration::from_millis(100));
        io::copy(&mut io::repeat(7).take(60_000), &mut stream).unwrap();
    });
    let (result, text, _) = bench.run();
    assert_eq!((result.unwrap(), text.len()), (ExitStatus::Code(7), 60_000));
    command.join().unwrap();
}

#[test]
fn an_orderly_power_off_waits_for_the_machine() {
    let vm = vm();
    let off = Arc::clone(&vm);
    let mut bench = Bench::new(&vm, move |peer, frame| match frame.request {
        Request::PowerOff => {
            peer.close();
            thread::sleep(Duration::from_millis(30));
            off.end(MachineExit::PowerOff);
        }
        _ => simple(peer, frame),
    });
    bench.task.stop = Stop::PowerOff;
    bench.task.fds = StdioFds::default();
    let (result, ..) = bench.run();
    assert_eq!(result.unwrap(), ExitStatus::Code(7));
    assert_eq!(vm.wait(Some(SOON)), Some(MachineExit::PowerOff));
}

#[test]
fn what_the_command_left_running_is_killed_when_it_holds_the_output_open() {
    let held: Arc<Mutex<Option<std::os::unix::net::UnixStream>>> = Arc::default();
    let survivor = Arc::clone(&held);
    let bench = Bench::new(&vm(), move |peer, frame| match frame.request {
        Request::SignalProcess { signal: 9, all: true, .. } => {
            *survivor.lock().unwrap() = None;
            peer.reply(frame.id, Ok(Response::Done));
        }
        _ => simple(peer, frame),
    });
    let guest = bench.guest.clone();
    let command = thread::spawn(move || {
        let mut stream = guest.stream("command", StdStream::Stdout);
        stream.write_all(b"said").unwrap();
        *held.lock().unwrap() = Some(stream);
    });
    let start = Instant::now();
    let (result, text, _) = bench.run();
    assert_eq!((result.unwrap(), text.as_str()), (ExitStatus::Code(7), "said"));
    assert!(start.elapsed() < SOON);
    command.join().unwrap();
}

#[test]
fn output_that_the_caller_can_not_take_is_an_error_but_the_guest_is_still_flushed() {
    let flushed = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&flushed);
    let mut bench = Bench::new(&vm(), move |peer, frame| {
        *seen.lock().unwrap() |= frame.request == Request::PowerOff;
        simple(peer, frame);
    });
    bench.task.fds.stdout = Some(File::options().write(true).open("/dev/full").unwrap().into());
    let guest = bench.guest.clone();
    let command = thread::spawn(move || drop(guest.stream("command", StdStream::Stdout).write_all(b"lost")));
    let (result, ..) = bench.run();
    assert!(matches!(result, Err(RunError::Relay(_))), "{result:?}");
    assert!(*flushed.lock().unwrap());
    command.join().unwrap();
}
