//! The control server against callers that break the protocol, each with a machine in memory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;

use hutch_agent_proto::{encode_frame, MAX_FRAME};

use super::*;
use crate::backend::{BlockDevice, VmState};
use crate::sync;
use crate::vm_host::ControlClient;

/// Bound for a frame in these tests, and a bound that no test reaches unless the server hangs.
const FRAME: Duration = Duration::from_millis(100);
const GENEROUS: Duration = Duration::from_secs(120);

/// A machine that runs until the test ends it.
#[derive(Default)]
struct Stub(Arc<(Mutex<bool>, Condvar)>);

impl GuestMachine for Stub {
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply> {
        Ok(match request {
            VmRequest::State => VmReply::State(VmState::Running),
            // More than the buffers of a socket hold.
            VmRequest::Unplug { id } => VmReply::State(VmState::Ended(id.repeat(3 << 20))),
            _ => VmReply::Done,
        })
    }

    fn plug_block(&self, _: &BlockDevice, _: File) -> BackendResult<()> {
        Ok(())
    }

    fn connect(&self, _: u32, timeout: Duration) -> io::Result<UnixStream> {
        assert!(timeout <= MAX_WAIT);
        Err(io::ErrorKind::TimedOut.into())
    }

    fn wait_end(&self) -> MachineEnd {
        let ended = self.0 .1.wait_while(sync::lock(&self.0 .0), |ended| !*ended);
        drop(ended);
        MachineEnd { reason: "the test ended it".into(), expected: true }
    }
}

/// A served control socket.
struct Served {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    machine: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<Result<MachineEnd, ServeError>>>,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let machine = Arc::<(Mutex<bool>, Condvar)>::default();
        let stub = Stub(machine.clone());
        let thread = std::thread::spawn(move || serve_within(FRAME, listener, |_| Ok(stub)));
        let mut launcher = ControlClient::connect(&socket).unwrap();
        launcher.call(VmRequest::Start(Box::default())).unwrap();
        Self { _dir: dir, socket, machine, thread: Some(thread) }
    }

    /// A caller that has greeted as it should.
    fn greeted(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(GENEROUS)).unwrap();
        write_frame(&mut stream, &ControlHello::ours()).unwrap();
        assert!(read_frame::<ControlHello>(&mut stream).unwrap().is_some());
        stream
    }

    /// The server answers another caller.
    fn expect_service(&self) {
        let mut client = ControlClient::connect(&self.socket).unwrap();
        assert_eq!(client.call(VmRequest::State).unwrap(), VmReply::State(VmState::Running));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        *sync::lock(&self.machine.0) = true;
        self.machine.1.notify_all();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().unwrap().unwrap().expected);
        }
    }
}

/// Reads until the server hangs up.
fn expect_hang_up(mut stream: &UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

fn state_request() -> Vec<u8> {
    encode_frame(&ControlRequest::Vm(VmRequest::State)).unwrap()
}

#[test]
fn a_caller_that_sends_half_a_frame_is_hung_up_on() {
    let served = Served::new();
    let request = state_request();
    for length in 1..request.len() {
        let mut stream = served.greeted();
        stream.write_all(&request[..length]).unwrap();
        expect_hang_up(&stream);
    }
    served.expect_service();
}

#[test]
fn a_caller_that_never_greets_is_hung_up_on() {
    let served = Served::new();
    let stream = UnixStream::connect(&served.socket).unwrap();
    expect_hang_up(&stream);
    served.expect_service();
}

/// Each byte comes in time; the frame does not.
#[test]
fn a_caller_that_trickles_is_hung_up_on() {
    let served = Served::new();
    let mut stream = served.greeted();
    let head = (MAX_FRAME as u32).to_le_bytes();
    stream.write_all(&head).unwrap();
    let mut sent = 0;
    while stream.write_all(b" ").is_ok() {
        sent += 1;
        assert!(sent < MAX_FRAME, "the whole frame was taken");
        std::thread::sleep(FRAME / 50);
    }
    served.expect_service();
}

#[test]
fn a_caller_that_sends_a_frame_without_end_is_hung_up_on() {
    let served = Served::new();
    for head in [u32::MAX, MAX_FRAME as u32 + 1] {
        let mut stream = served.greeted();
        stream.write_all(&head.to_le_bytes()).unwrap();
        let chunk = [b' '; 4096];
        // The server hangs up at the length and takes none of it.
        let taken = (0..4096).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        assert!(taken < 4096);
        expect_hang_up(&stream);
    }
    served.expect_service();
}

/// Replies that no caller takes hold their own connection only, and that for a bounded time.
#[test]
fn a_caller_that_never_reads_is_hung_up_on() {
    let served = Served::new();
    let mut stream = served.greeted();
    write_frame(&mut stream, &ControlRequest::Vm(VmRequest::Unplug { id: "x".into() })).unwrap();
    served.expect_service();
    // Requests are taken until the reply's time is over.
    let request = state_request();
    let deadline = Instant::now() + GENEROUS;
    while stream.write_all(&request).is_ok() {
        assert!(Instant::now() < deadline, "the server still listens to a caller that takes no reply");
    }
    served.expect_service();
}

/// A caller that is silent between requests is not one that breaks the protocol.
#[test]
fn a_caller_may_be_silent_between_requests() {
    let served = Served::new();
    let mut client = ControlClient::connect(&served.socket).unwrap();
    for _ in 0..2 {
        assert_eq!(client.call(VmRequest::State).unwrap(), VmReply::State(VmState::Running));
        std::thread::sleep(FRAME * 3);
    }
}

#[test]
fn bytes_that_are_no_request_end_only_their_connection() {
    let served = Served::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\x02\0\0\0{}", b"\x03\0\0\0nul"] {
        let mut stream = served.greeted();
        // The server may be quicker.
        let _ = stream.write_all(bytes);
        expect_hang_up(&stream);
        served.expect_service();
    }
}

#[test]
fn connections_have_a_limit_and_become_free_again() {
    let served = Served::new();
    let silent: Vec<UnixStream> = (0..MAX_CONNECTIONS + 20).map(|_| served_stream(&served)).collect();
    // Those that never greet lose their places.
    silent.iter().for_each(expect_hang_up);
    served.expect_service();
}

fn served_stream(served: &Served) -> UnixStream {
    UnixStream::connect(&served.socket).unwrap()
}
