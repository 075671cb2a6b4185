//! The control socket of a VMM process: any bytes after the connection, and frames after a good greeting.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::encode_frame;
use hutch_runtime::backend::{BackendError, BackendResult, BlockDevice, VmReply, VmRequest};
use hutch_runtime::vm_host::message::{ControlHello, CONTROL_PROTOCOL};
use hutch_runtime::vm_host::{serve_connection, GuestMachine, MachineEnd};

use crate::script::Script;

/// A machine that carries out some requests and fails at others.
struct Machine;

impl GuestMachine for Machine {
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply> {
        match request {
            VmRequest::Start(_) | VmRequest::ExpectEnd(_) => unreachable!("the server handles these"),
            VmRequest::SetMemory { mib } => Ok(VmReply::Memory(mib.wrapping_mul(2))),
            VmRequest::Pause => Err(BackendError::Lost("gone".into())),
            _ => Ok(VmReply::Done),
        }
    }

    fn plug_block(&self, _: &BlockDevice, _: File) -> BackendResult<()> {
        Ok(())
    }

    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        assert!(timeout <= Duration::from_secs(600), "the server bounds a wait");
        match port % 2 {
            0 => Ok(UnixStream::pair()?.0),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn wait_end(&self) -> MachineEnd {
        MachineEnd { reason: String::new(), expected: true }
    }
}

/// Attacks the control socket.
pub fn attack(data: &[u8]) {
    let mut script = Script::new(data);
    let (server, mut client) = UnixStream::pair().expect("a pair of sockets");
    let hello = ControlHello { protocol: CONTROL_PROTOCOL, program: "1".into() };
    let mut bytes = Vec::new();
    let how = script.u8();
    if how & 1 == 0 {
        bytes.extend(encode_frame(&hello).expect("a greeting fits a frame"));
    }
    if how & 2 == 0 {
        for line in script.rest().split(|byte| *byte == b'\n') {
            bytes.extend((line.len() as u32).to_le_bytes());
            bytes.extend(line);
        }
    } else {
        bytes.extend(script.rest());
    }
    client.set_nonblocking(true).expect("a socket");
    drop(client.write_all(&bytes));
    drop(client.shutdown(std::net::Shutdown::Write));
    // No client reads the replies: this limit stands for the end of the wait.
    drop(serve_connection(Arc::new(Machine), server, Duration::from_millis(5)));
}
