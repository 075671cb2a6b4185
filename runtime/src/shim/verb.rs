//! The hidden verb of a shim.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{read_frame, ExitStatus, StdStream, WindowSize};
use hutch_vmm::confine::process::confine_process;
use hutch_vmm::confine::root::RootShare;
use hutch_vmm::confine::seccomp::Kind;
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{signals, StartMessage, SYNC_PIPE};
use crate::agent_client::{AgentError, Session};
use crate::backend::{ShimSpec, VmRequest};
use crate::stdio::{Relay, StdioFds};
use crate::store::{write_record, write_record_if_absent, ExitRecord, FailureRecord};
use crate::sys;
use crate::timestamp::Timestamp;
use crate::vm_host::{reason_of_end, report_violations, ControlClient, ControlConnector};
use hutch_agent_proto::error_chain;

/// Exit status of a shim that does not know how its guest process ended.
const UNKNOWN: u8 = 255;
/// Bound for replies of the agent.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// After the process's end, an output that stays silent for this long counts as ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Stands for a guest process until it ends; what `hutch` does when it is started again for that. Returns the status to
/// exit with: the code of the guest process, or 128 plus the signal that ended it.
pub fn shim_verb() -> u8 {
    let spec = match read_sync_pipe() {
        Ok(Some(spec)) => spec,
        // The runtime died or rolled back: there is no process to stand for.
        Ok(None) => return UNKNOWN,
        Err(e) => {
            log::error!("shim: {e}");
            return UNKNOWN;
        }
    };
    let result = stand(&spec);
    let record = match &result {
        Ok(status) => {
            ExitRecord { token: spec.token.clone(), status: Some(*status), reason: None, at: Timestamp::now() }
        }
        Err(error) => {
            note_failure(&spec);
            ExitRecord {
                token: spec.token.clone(),
                status: None,
                reason: Some(error_chain(error)),
                at: Timestamp::now(),
            }
        }
    };
    // The container's directory may be gone; then no call needs the record.
    if let Err(error) = write_record(&spec.exit_record, &record) {
        log::debug!("shim: {}", error.chain());
    }
    result.map_or(UNKNOWN, ExitStatus::code)
}

/// Reads the process to stand for and the start message from the sync pipe. `None`: the runtime gave up.
fn read_sync_pipe() -> io::Result<Option<ShimSpec>> {
    let number = std::env::var(SYNC_PIPE).ok().and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let number = number.ok_or_else(|| io::Error::other(format!("{SYNC_PIPE} does not name a descriptor")))?;
    let mut sync_pipe = UnixStream::from(inherited(number)?);
    let Some(StartMessage::Spec(spec)) = read_frame(&mut sync_pipe).map_err(io::Error::other)? else { return Ok(None) };
    match read_frame(&mut sync_pipe).map_err(io::Error::other)? {
        Some(StartMessage::Go) => Ok(Some(*spec)),
        _ => Ok(None),
    }
}

#[expect(unsafe_code, reason = "a descriptor that a process is born with has no owner in Rust's sense")]
fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed only to check that it is open; nothing closes it meanwhile, this is the only thread.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the runtime has passed it to this process for this purpose, and nothing else in it uses the number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Relays streams and signals until the guest process ends. Fails if the channel breaks: the machine or the agent is gone.
fn stand(spec: &ShimSpec) -> Result<ExitStatus, AgentError> {
    if let Some(console) = &spec.console {
        take_console(console).map_err(AgentError::Host)?;
    }
    if spec.jail.is_on() {
        report_violations(&spec.token, &log_of(spec));
        // Before it reads what a guest sends; all its threads are made later.
        confine_process(Kind::Shim, Some(&records(spec))).map_err(AgentError::Host)?;
    }
    let connector = Arc::new(ControlConnector::new(&spec.socket));
    let session = Arc::new(Session::connect(connector, AGENT_TIMEOUT)?);
    pass_signals(&session, spec).map_err(AgentError::Host)?;
    let mut relay = relay(&session, spec)?;
    let status = loop {
        if let Some(status) = session.wait_process(&spec.token, None)? {
            break status;
        }
    };
    if let Err(error) = relay.finish(None) {
        log::warn!("container {}: {error}", spec.container);
    }
    Ok(status)
}

/// The directories of the records that a shim reads and writes. The container's may be gone, with the container.
fn records(spec: &ShimSpec) -> Vec<RootShare> {
    let dirs = [&spec.exit_record, &spec.failure_record].into_iter().filter_map(|record| record.parent());
    dirs.filter(|dir| dir.is_dir()).map(|dir| RootShare { path: dir.into(), read_only: false }).collect()
}

/// The terminal at `path` becomes the standard streams and the controlling terminal (P-097).
fn take_console(path: &Path) -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open(path)?;
    sys::set_controlling_terminal(console.as_fd())?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}

fn relay(session: &Arc<Session>, spec: &ShimSpec) -> Result<Relay, AgentError> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(AgentError::Host);
    let fds = StdioFds {
        stdin: spec.stdin.then(|| copy(io::stdin().as_fd())).transpose()?,
        stdout: Some(copy(io::stdout().as_fd())?),
        stderr: (!spec.terminal).then(|| copy(io::stderr().as_fd())).transpose()?,
    };
    let (opener, token) = (Arc::clone(session), spec.token.clone());
    let open = Arc::new(move |stream: StdStream| opener.open_stream(&token, stream, AGENT_TIMEOUT));
    Relay::start(open, fds, spec.terminal, DRAIN_TIMEOUT).map_err(|e| AgentError::Host(io::Error::other(e.to_string())))
}

/// Signals go to the guest process, a new size of the terminal too.
fn pass_signals(session: &Arc<Session>, spec: &ShimSpec) -> io::Result<()> {
    let (session, token, terminal) = (Arc::clone(session), spec.token.clone(), spec.terminal);
    if terminal {
        resize(&session, &token);
    }
    signals::pass_on(signals::passed(), move |signal| match signal {
        Signal::SIGWINCH if terminal => resize(&session, &token),
        Signal::SIGWINCH => {}
        signal => {
            if let Err(error) = session.signal_process(&token, signal as i32, false, AGENT_TIMEOUT) {
                log::warn!("passing {signal} on: {error}");
            }
        }
    })
}

fn resize(session: &Session, token: &str) {
    let Ok(size) = sys::window_size(io::stdout().as_fd()) else { return };
    let size = WindowSize { rows: size.ws_row, cols: size.ws_col };
    if size.rows > 0 {
        let _ = session.resize_terminal(token, size, AGENT_TIMEOUT);
    }
}

/// The log of the pod's machine.
fn log_of(spec: &ShimSpec) -> PathBuf {
    spec.failure_record.with_file_name("vmm.log")
}

/// Called when the channel broke: if the machine's process is gone, records that for the whole pod. The next call on
/// the pod stops its containers (`reconcile`, `pod/reconcile.rs`).
fn note_failure(spec: &ShimSpec) {
    // A process on its way out may still accept connections, but it answers none.
    let answers = || ControlClient::connect(&spec.socket).and_then(|mut vmm| vmm.call(VmRequest::State)).is_ok();
    let noted = fs::metadata(&spec.failure_record).is_ok_and(|found| found.len() > 0);
    if noted || answers() {
        return;
    }
    let reason = reason_of_end(&log_of(spec), &spec.socket);
    // The machine's process may be writing its own record, which knows more.
    let _ = write_record_if_absent(&spec.failure_record, &FailureRecord { reason, at: Timestamp::now() });
}
