//! The runtime's session with an agent that sends anything.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{encode_frame, Hello, Request, PROTOCOL_VERSION};
use hutch_runtime::agent_client::Session;

use crate::script::Script;

/// Nothing here waits for it: the agent has said all and closed its side.
const DEADLINE: Duration = Duration::from_secs(30);

fn nowhere(_timeout: Duration) -> io::Result<UnixStream> {
    Err(io::ErrorKind::ConnectionRefused.into())
}

/// Attacks the session. After a good greeting, the first byte decides whether the rest comes as one frame for each line
/// or as it is.
pub fn attack(data: &[u8]) {
    let mut script = Script::new(data);
    let (host, mut agent) = UnixStream::pair().expect("a pair of sockets");
    let hello = Hello { version: PROTOCOL_VERSION, program: "1".into(), kernel: "2".into() };
    let mut bytes = encode_frame(&hello).expect("a greeting fits a frame");
    if script.u8() & 1 == 0 {
        for line in script.rest().split(|byte| *byte == b'\n') {
            bytes.extend((line.len() as u32).to_le_bytes());
            bytes.extend(line);
        }
    } else {
        bytes.extend(script.rest());
    }
    agent.set_nonblocking(true).expect("a socket");
    // A host that has hung up already is fine.
    drop(agent.write_all(&bytes));
    drop(agent.shutdown(std::net::Shutdown::Write));
    let Ok(session) = Session::accept(host, Arc::new(nowhere), DEADLINE) else { return };
    let events = session.events();
    drop(session.call(Request::Ping, DEADLINE));
    drop(session.call(Request::Ping, DEADLINE));
    drop(session);
    assert!(events.iter().count() <= 1024 + 1, "events are bounded");
}
