//! A control connection: greeting, then requests in order of arrival. Its thread serves them one by one; the reaper
//! answers `WaitProcess` later.

use std::io::{BufReader, Write};
use std::sync::Arc;

use hutch_agent_proto::{
    encode_frame, is_token, parse_request, read_frame, read_payload, BadRequest, FrameError, Hello, HostFrame, Open,
    Request, Response, MAX_SIGNAL, PROTOCOL_VERSION,
};

use crate::agent::Agent;
use crate::connection::HostConnection;
use crate::container::is_about_containers;
use crate::failure::{invalid, Outcome};
use crate::outbox::Outbox;
use crate::{memory, net, settings, setup};

/// The program's version, marked so that the builder of an initramfs can find it in the file and record it.
static VERSION: &str = concat!("hutch-agent-version:", env!("CARGO_PKG_VERSION"), "\0");

/// The agent's greeting.
pub fn hello(kernel: &str) -> Hello {
    // Opaque, lest the compiler drop the mark.
    let version = std::hint::black_box(VERSION).trim_end_matches('\0').rsplit(':').next().unwrap_or_default();
    Hello { version: PROTOCOL_VERSION, program: format!("hutch-agent {version}"), kernel: kernel.to_string() }
}

/// The first bytes that the agent sends on a connection that it opens itself: both frames in one piece.
///
/// # Errors
/// `TooLarge`, which two small messages never are.
pub fn opening(kernel: &str) -> Result<Vec<u8>, FrameError> {
    Ok([encode_frame(&Open::Control)?, encode_frame(&hello(kernel))?].concat())
}

/// Greets on a connection that the host opened.
pub fn greet(agent: &Agent, connection: &HostConnection) -> Result<(), FrameError> {
    let mut stream = connection;
    Ok(stream.write_all(&encode_frame(&hello(&agent.options.kernel))?)?)
}

/// Serves a connection on which the agent has greeted, until the host closes it.
pub fn run(agent: &Arc<Agent>, connection: &Arc<HostConnection>) {
    let mut reader = BufReader::new(&**connection);
    match read_frame::<Hello>(&mut reader) {
        Ok(Some(hello)) if hello.version == PROTOCOL_VERSION => {}
        Ok(Some(hello)) => {
            let (program, version) = (hello.program, hello.version);
            return agent.warn(format!(
                "{program:?} speaks version {version} of the agent protocol, this agent {PROTOCOL_VERSION}"
            ));
        }
        Ok(None) => return,
        Err(error) => return agent.warn(format!("a connection without greeting is closed: {error}")),
    }
    let _ = connection.set_receive_timeout(None);
    let outbox = Outbox::new(Arc::clone(connection));
    agent.subscribe(&outbox);
    let result = serve(agent, &outbox, &mut reader);
    agent.unsubscribe(&outbox);
    outbox.shut();
    if let Err(reason) = result {
        agent.warn(format!("a connection is closed: {reason}"));
    }
}

/// Reads and serves requests until the end of the connection. The error says what the host did wrong.
fn serve(agent: &Arc<Agent>, outbox: &Arc<Outbox>, reader: &mut BufReader<&HostConnection>) -> Result<(), String> {
    loop {
        let payload = match read_payload(reader) {
            Ok(Some(payload)) => payload,
            // A host that dies resets the connection; that is an ordinary end.
            Ok(None) | Err(FrameError::Io(_)) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        match parse_request(&payload) {
            Ok(HostFrame { id, request: Request::WaitProcess { token } }) => {
                if let Err(error) = agent.processes().wait(&token, outbox, id) {
                    outbox.reply(id, Err(error));
                }
            }
            Ok(HostFrame { id, request }) => outbox.reply(id, answer(agent, request)),
            Err(BadRequest::Unknown { id, error }) => outbox.reply(id, Err(error)),
            Err(BadRequest::Malformed(error)) => return Err(format!("not a request: {error}")),
        }
    }
}

/// Serves one request.
fn answer(agent: &Arc<Agent>, request: Request) -> Outcome<Response> {
    if is_about_containers(&request) {
        return agent.options.containers.serve(agent, request);
    }
    let processes = agent.processes();
    match request {
        Request::Ping => {}
        Request::SetupSandbox(spec) => setup::set_up(agent, &spec)?,
        Request::SetClock { unix_ns } => settings::set_clock(unix_ns)?,
        Request::StartProcess { token, container, process } => {
            if !is_token(&token) {
                return Err(invalid(format!("{token:?} is not a token")));
            }
            let pid = agent.start(&token, container.as_deref(), &process)?;
            return Ok(Response::Started { pid });
        }
        Request::SignalProcess { token, signal, all } => {
            if !(1..=MAX_SIGNAL).contains(&signal) {
                return Err(invalid(format!("{signal} is not a signal")));
            }
            processes.signal(&token, signal, all)?;
        }
        Request::ResizeTerminal { token, size } => processes.resize(&token, size)?,
        Request::CloseStdin { token } => processes.close_stdin(&token)?,
        Request::ForgetProcess { token } => processes.forget(&token)?,
        Request::Mount(mount) => setup::mount(agent, &mount)?,
        Request::Unmount { target } => setup::unmount(agent, &target)?,
        Request::ConfigureNetwork(spec) => {
            net::configure(&spec)?;
            setup::set_resolver(agent, &spec.dns)?;
        }
        Request::OnlineCpus { count } => settings::online_cpus(count)?,
        Request::AwaitMemory { more } => memory::await_more(agent.options.memory_at_boot, more, false)?,
        Request::PowerOff => agent.options.power.off(agent),
        // The caller serves WaitProcess, `Containers` its own requests; the enum may grow.
        other => return Err(unsupported(&other)),
    }
    Ok(Response::Done)
}

fn unsupported(request: &Request) -> hutch_agent_proto::RemoteError {
    let message = format!("this agent does not serve {request:?}");
    hutch_agent_proto::RemoteError::new(hutch_agent_proto::RemoteErrorKind::Unsupported, message)
}
