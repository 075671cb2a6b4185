//! The runtime that the verbs on pods and containers use, and what they have in common.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hutch_agent_proto::ErrorKind as RemoteKind;
use hutch_runtime::host::HostBackends;
use hutch_runtime::{Error, Options, Runtime, State, Store};

use crate::args::pod::StopFlags;
use crate::args::records::RecordArgs;
use crate::failure::{Failure, FAILED, RUN_FAILED};
use crate::resolve::{self, Host, ResolveError};

/// Exit code for what can't be understood on the command line.
const USAGE: u8 = 2;
/// A wait ran out, as timeout(1) says it.
pub const TIMED_OUT: u8 = 124;
/// A wait without limit is repeated in slices of this length.
const SLICE: Duration = Duration::from_secs(3600);

/// The runtime over the records of this host.
pub fn runtime(args: &RecordArgs, options: Options) -> Runtime {
    let place = |given: &Option<PathBuf>, variable: &str, default: &str| {
        let named = || std::env::var_os(variable).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = given.clone().or_else(named).unwrap_or_else(|| default.into());
        // Other processes of ours, which lie elsewhere, will use it.
        std::path::absolute(&dir).unwrap_or(dir)
    };
    let root = place(&args.root, "HUTCH_ROOT", "/var/lib/hutch/pods");
    let state_root = place(&args.state_root, "HUTCH_STATE_ROOT", "/run/hutch/pods");
    // Beside the state, not in it: records of another place have namespaces of their own for the same ids.
    let mut namespaces = state_root.clone().into_os_string();
    namespaces.push(".netns");
    let backends = HostBackends { network_namespaces: namespaces.into(), ..HostBackends::default() };
    Runtime::new(Store::new(root, state_root), backends.backends(), options)
}

/// The same with the usual bounds.
pub fn usual(args: &RecordArgs) -> Result<Runtime, Failure> {
    Ok(runtime(args, options(None, None)?))
}

/// The runtime's bounds, as flags and environment have them.
pub fn options(boot: Option<&OsStr>, stop: Option<&OsStr>) -> Result<Options, Failure> {
    resolve::pod::options(boot, stop, &own_variable).map_err(typed)
}

fn own_variable(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

/// What resolution needs to know.
pub fn host() -> io::Result<Host<'static>> {
    Ok(Host {
        memory_mib: resolve::memory_of_host()?,
        env: &own_variable,
        stdin_tty: io::stdin().is_terminal(),
        pid: std::process::id(),
    })
}

/// A mistake in what was typed; one in a configuration file counts as the call's failure.
pub fn typed(error: ResolveError) -> Failure {
    let code = match error {
        ResolveError::Api(_) => FAILED,
        _ => USAGE,
    };
    Failure::new(code, error)
}

/// A failure of a verb whose exit codes below 125 belong to the command in the guest.
pub fn run_failure(failure: Failure) -> Failure {
    match failure.code {
        FAILED | USAGE => failure.with_code(RUN_FAILED),
        _ => failure,
    }
}

/// A command that could not be started: 127 if it does not exist, 126 if it can't be executed, else 125.
pub fn start_failure(error: Error) -> Failure {
    let kind = match &error {
        Error::Backend { source, .. } => source.remote_kind(),
        _ => None,
    };
    let code = match kind {
        Some(RemoteKind::ProgramNotFound) => 127,
        Some(RemoteKind::ProgramNotExecutable) => 126,
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

/// Does the same for each id and prints the ids for which it succeeded; all are tried.
pub fn each(ids: &[String], mut one: impl FnMut(&str) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut code = 0;
    for id in ids {
        match one(id) {
            Ok(()) => writeln!(io::stdout(), "{id}")?,
            Err(failure) => code = failure.report(),
        }
    }
    Ok(code)
}

/// Waits for something in slices, at most `timeout`; `None` if it did not come.
pub fn wait<T>(
    timeout: Option<Duration>,
    mut slice: impl FnMut(Duration) -> hutch_runtime::Result<Option<T>>,
) -> hutch_runtime::Result<Option<T>> {
    let deadline = timeout.and_then(|after| Instant::now().checked_add(after));
    loop {
        let left = deadline.map_or(SLICE, |deadline| deadline.saturating_duration_since(Instant::now()));
        let found = slice(left.min(SLICE))?;
        if found.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(found);
        }
    }
}

/// The signal that a stop begins with; none with `none`, by force, or where there would be no time to react.
pub fn stop_signal(how: &StopFlags) -> Result<Option<i32>, Failure> {
    match how.signal.as_deref() {
        _ if how.force => Ok(None),
        Some("none") => Ok(None),
        signal => Ok(Some(hutch_runtime::spec::parse_signal(signal.unwrap_or("TERM"))?)),
    }
}

/// A state as people read it.
pub fn state_text(state: Option<State>) -> String {
    state.map_or_else(|| "unknown".to_owned(), |state| state.name().to_owned())
}
