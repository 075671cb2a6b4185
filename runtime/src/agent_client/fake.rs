//! An agent without a guest, for tests: speaks the real protocol over socket pairs; a closure gives the answers.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use hutch_agent_proto::{
    read_frame, write_frame, AgentFrame, Event, Hello, HostFrame, Open, RemoteError, RemoteErrorKind, Response,
    StdStream, PROTOCOL_VERSION,
};

use super::Connector;

/// Bound of every wait in a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The agent's reaction to a request.
pub type Script = Box<dyn Fn(&Peer, HostFrame) + Send + Sync>;

/// The guest's side: the reaction to requests, and the streams that the host has opened.
#[derive(Clone)]
pub struct FakeGuest(Arc<Inner>);

struct Inner {
    script: Script,
    version: u32,
    /// Opened by the host, not yet taken by the test; `None` once the machine is gone.
    streams: Mutex<Option<HashMap<(String, StdStream), UnixStream>>>,
    arrived: Condvar,
}

/// The agent's end of a control connection.
#[derive(Clone)]
pub struct Peer(Arc<UnixStream>);

impl Peer {
    /// Answers request `id`.
    pub fn reply(&self, id: u64, result: Result<Response, RemoteError>) {
        self.send(&AgentFrame::Reply { id, result });
    }

    /// Refuses request `id`.
    pub fn refuse(&self, id: u64, kind: RemoteErrorKind, message: &str) {
        self.reply(id, Err(RemoteError::new(kind, message)));
    }

    /// Reports an event.
    pub fn event(&self, event: Event) {
        self.send(&AgentFrame::Event(event));
    }

    /// Sends bytes that need not be a frame; `false` once the host has hung up.
    pub fn raw(&self, bytes: &[u8]) -> bool {
        (&*self.0).write_all(bytes).is_ok()
    }

    /// Ends the connection.
    pub fn close(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    fn send(&self, frame: &AgentFrame) {
        // The host may have hung up; some tests check that.
        let _ = write_frame(&mut &*self.0, frame);
    }
}

impl FakeGuest {
    /// A guest whose agent reacts with `script`.
    pub fn new(script: impl Fn(&Peer, HostFrame) + Send + Sync + 'static) -> Self {
        Self::with_version(PROTOCOL_VERSION, script)
    }

    /// A guest whose agent has another protocol version.
    pub fn with_version(version: u32, script: impl Fn(&Peer, HostFrame) + Send + Sync + 'static) -> Self {
        let streams = Mutex::new(Some(HashMap::new()));
        Self(Arc::new(Inner { script: Box::new(script), version, streams, arrived: Condvar::new() }))
    }

    /// The host's end of the connection that a ready agent opens.
    pub fn push(&self) -> UnixStream {
        let (host, guest) = UnixStream::pair().expect("socket pair");
        let inner = Arc::clone(&self.0);
        thread::spawn(move || {
            let _ = write_frame(&mut &guest, &Open::Control);
            inner.serve_control(guest);
        });
        host
    }

    /// A connector to this guest.
    pub fn connector(&self) -> Arc<dyn Connector> {
        Arc::new(self.clone())
    }

    /// The guest's end of a stream; waits until the host has opened it.
    pub fn stream(&self, token: &str, stream: StdStream) -> UnixStream {
        let key = (token.to_owned(), stream);
        let streams = self.0.streams.lock().expect("streams");
        let (mut streams, _) = self
            .0
            .arrived
            .wait_timeout_while(streams, TEST_TIMEOUT, |s| s.as_ref().is_some_and(|s| !s.contains_key(&key)))
            .expect("streams");
        streams
            .as_mut()
            .and_then(|s| s.remove(&key))
            .unwrap_or_else(|| panic!("the host did not open {stream:?} of {token}"))
    }

    /// Ends the machine: closes the streams that the test has not taken and refuses new ones.
    pub fn hang_up(&self) {
        *self.0.streams.lock().expect("streams") = None;
        self.0.arrived.notify_all();
    }
}

impl Connector for FakeGuest {
    fn connect(&self, _timeout: Duration) -> io::Result<UnixStream> {
        let (host, guest) = UnixStream::pair()?;
        let inner = Arc::clone(&self.0);
        thread::spawn(move || match read_frame::<Open>(&mut &guest) {
            Ok(Some(Open::Control)) => inner.serve_control(guest),
            Ok(Some(Open::Stream { token, stream })) => {
                if let Some(streams) = &mut *inner.streams.lock().expect("streams") {
                    streams.insert((token, stream), guest);
                }
                inner.arrived.notify_all();
            }
            _ => {}
        });
        Ok(host)
    }
}

impl Inner {
    fn serve_control(&self, stream: UnixStream) {
        let hello = Hello { version: self.version, program: "fake-agent 1".to_owned(), kernel: "6.12-fake".to_owned() };
        let _ = write_frame(&mut &stream, &hello);
        let peer = Peer(Arc::new(stream));
        let mut input = &*peer.0;
        if !matches!(read_frame::<Hello>(&mut input), Ok(Some(_))) {
            return;
        }
        while let Ok(Some(frame)) = read_frame::<HostFrame>(&mut input) {
            (self.script)(&peer, frame);
        }
    }
}
