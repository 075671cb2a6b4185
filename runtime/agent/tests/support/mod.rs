//! Drives a real agent, as the process `hutch-agent-unix` (or `hutch-agent-oci-unix`), over its socket.
#![allow(dead_code, reason = "each test program uses its part of this")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hutch_agent_proto::*;
use tempfile::TempDir;

/// Longer than any step here takes, so that a hang fails the test instead of hanging it.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Whether the tests run as root; some need that.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// Reports a skipped test past the test harness, so that the skip is counted.
pub fn skip(test: &str, reason: &str) {
    std::io::stdout().write_all(format!("SKIPPED: {test}: {reason}\n").as_bytes()).unwrap();
}

/// A running agent.
pub struct Guest {
    pub dir: TempDir,
    child: Child,
}

impl Guest {
    /// An agent in the namespaces of the test.
    pub fn start() -> Guest {
        Self::launch(&[])
    }

    /// An agent in mount, host name, network, IPC and process namespaces of its own, where it is process 1. Needs root.
    pub fn start_isolated() -> Guest {
        let namespaces = ["unshare", "-m", "-u", "-n", "-i", "-p", "-f", "--mount-proc", "--kill-child"];
        Self::launch(&namespaces)
    }

    fn launch(prefix: &[&str]) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        // The agent of the package whose test includes this file.
        let program =
            option_env!("CARGO_BIN_EXE_hutch-agent-unix").or(option_env!("CARGO_BIN_EXE_hutch-agent-oci-unix"));
        let program = program.expect("this package has an agent");
        let mut words = prefix.iter().copied().chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(dir.path().join("agent.sock")).arg(dir.path().join("run")).stdin(Stdio::null());
        let guest = Guest { child: command.spawn().unwrap(), dir };
        guest.connect_when_there();
        guest
    }

    /// Polls until the agent listens. A real agent announces itself instead.
    fn connect_when_there(&self) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Pid of the agent, or of the unshare process that runs it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A plain connection.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    /// A control connection.
    pub fn control(&self) -> Control {
        let mut stream = self.connect();
        write_frame(&mut stream, &Open::Control).unwrap();
        Control::greet(stream)
    }

    /// A control connection that the agent has already subscribed to events, so that it misses none.
    pub fn watch(&self) -> Control {
        let mut control = self.control();
        control.done(Request::Ping);
        control
    }

    /// A stream of a process.
    pub fn open(&self, token: &str, stream: StdStream) -> UnixStream {
        let mut connection = self.connect();
        write_frame(&mut connection, &Open::Stream { token: token.into(), stream }).unwrap();
        connection
    }

    /// Everything a stream delivers until its end.
    pub fn read(&self, token: &str, stream: StdStream) -> String {
        let mut bytes = Vec::new();
        self.open(token, stream).read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Waits for the agent to end.
    pub fn join(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        if let Ok(mut stream) = UnixStream::connect(self.socket()) {
            // Ends the agent's processes too.
            let hello = Hello { version: PROTOCOL_VERSION, program: "test".into(), kernel: String::new() };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = write_frame(&mut stream, &Open::Control);
            let _ = write_frame(&mut stream, &hello);
            let _ = write_frame(&mut stream, &HostFrame { id: 0, request: Request::PowerOff });
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control connection, from the host's side.
pub struct Control {
    pub stream: UnixStream,
    pub hello: Hello,
    next: u64,
    replies: Vec<(u64, Result<Response, RemoteError>)>,
    events: VecDeque<Event>,
}

impl Control {
    /// Greets on a connection whose `Open` frame has been sent.
    pub fn greet(mut stream: UnixStream) -> Control {
        let hello = Hello { version: PROTOCOL_VERSION, program: "test".into(), kernel: String::new() };
        write_frame(&mut stream, &hello).unwrap();
        let hello = read_frame(&mut stream).unwrap().expect("the agent greets");
        Control { stream, hello, next: 1, replies: Vec::new(), events: VecDeque::new() }
    }

    pub fn send(&mut self, request: Request) -> u64 {
        let id = self.next;
        self.next += 1;
        write_frame(&mut self.stream, &HostFrame { id, request }).unwrap();
        id
    }

    fn receive(&mut self) {
        match read_frame(&mut self.stream).unwrap().expect("the agent closed the connection") {
            AgentFrame::Reply { id, result } => self.replies.push((id, result)),
            AgentFrame::Event(event) => self.events.push_back(event),
        }
    }

    pub fn reply(&mut self, id: u64) -> Result<Response, RemoteError> {
        loop {
            if let Some(at) = self.replies.iter().position(|(other, _)| *other == id) {
                return self.replies.remove(at).1;
            }
            self.receive();
        }
    }

    pub fn call(&mut self, request: Request) -> Result<Response, RemoteError> {
        let id = self.send(request);
        self.reply(id)
    }

    /// Makes a call that must succeed without a result.
    pub fn done(&mut self, request: Request) {
        assert_eq!(self.call(request), Ok(Response::Done));
    }

    /// The first event that `pick` accepts; drops others.
    pub fn event<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            while let Some(event) = self.events.pop_front() {
                if let Some(picked) = pick(&event) {
                    return picked;
                }
            }
            self.receive();
        }
    }

    pub fn start(&mut self, token: &str, process: ProcessSpec) -> Result<i32, RemoteError> {
        let process = Box::new(process);
        match self.call(Request::StartProcess { token: token.into(), container: None, process })? {
            Response::Started { pid } => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    pub fn wait(&mut self, token: &str) -> ExitStatus {
        match self.call(Request::WaitProcess { token: token.into() }) {
            Ok(Response::Exited(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&mut self, token: &str, signal: i32, all: bool) -> Result<Response, RemoteError> {
        self.call(Request::SignalProcess { token: token.into(), signal, all })
    }
}

/// A process of `args`, as the user of the test.
pub fn process(args: &[&str]) -> ProcessSpec {
    let user = if is_root() { String::new() } else { format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid()) };
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    ProcessSpec {
        args: args.iter().map(|arg| arg.to_string()).collect(),
        env: vec![("PATH".into(), path.into())],
        user,
        ..ProcessSpec::default()
    }
}

/// A shell that runs `script`.
pub fn shell(script: &str) -> ProcessSpec {
    process(&["/bin/sh", "-c", script])
}

/// Runs `process` to its end: status, stdout, stderr.
pub fn run(guest: &Guest, process: ProcessSpec) -> (ExitStatus, String, String) {
    let mut control = guest.control();
    control.start("run", process).unwrap();
    let (out, err) = (guest.read("run", StdStream::Stdout), guest.read("run", StdStream::Stderr));
    let status = control.wait("run");
    control.done(Request::ForgetProcess { token: "run".into() });
    (status, out, err)
}

/// Runs a shell script that succeeds and returns its stdout.
pub fn output(guest: &Guest, process: ProcessSpec) -> String {
    let (status, out, err) = run(guest, process);
    assert_eq!(status, ExitStatus::Code(0), "stdout {out:?}, stderr {err:?}");
    out
}

/// Polls until `condition` holds, for changes that only the kernel's tables show.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Pids and states of the children of `parent`.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<_> = rest.split(' ').collect();
        if fields[1] == parent.to_string() {
            children.push((entry.file_name().to_string_lossy().parse().unwrap(), fields[0].to_string()));
        }
    }
    children
}

/// Writes everything and ends the sending direction.
pub fn send_all(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Writes an executable file.
pub fn write_program(path: &Path, content: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
