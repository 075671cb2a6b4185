//! The runtime that the verbs on pods and containers use, and helpers that they share.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hutch_agent_proto::RemoteErrorKind;
use hutch_runtime::host::HostBackends;
use hutch_runtime::store::{DEFAULT_CONFIG_ROOT, DEFAULT_RUN_ROOT};
use hutch_runtime::{Error, Options, Runtime, State, Store};

use crate::args::records::RecordArgs;
use crate::failure::{Failure, FAILED, RUN_FAILED};
use crate::resolve::{self, Host, ResolveError};

/// Exit code for a mistake on the command line.
const USAGE: u8 = 2;
/// Exit code for a wait that timed out, as with timeout(1).
pub const TIMED_OUT: u8 = 124;
/// Longest single wait; longer waits repeat it.
const SLICE: Duration = Duration::from_secs(3600);

/// The runtime with the record directories of the arguments, the environment or the defaults.
pub fn runtime(args: &RecordArgs, options: Options) -> Runtime {
    let place = |given: &Option<PathBuf>, variable: &str, default: &str| {
        let named = || std::env::var_os(variable).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = given.clone().or_else(named).unwrap_or_else(|| default.into());
        // Other processes of hutch will use the path, with other working directories.
        std::path::absolute(&dir).unwrap_or(dir)
    };
    let root = place(&args.root, "HUTCH_ROOT", DEFAULT_CONFIG_ROOT);
    let state_root = place(&args.state_root, "HUTCH_STATE_ROOT", DEFAULT_RUN_ROOT);
    let store = Store::new(root, state_root);
    // This process ends after its call; init reaps what it has started.
    let backends = HostBackends { reap: false, ..HostBackends::default() }.backends(&store);
    Runtime::new(store, backends, options)
}

/// The runtime with default timeouts.
pub fn default_runtime(args: &RecordArgs) -> Result<Runtime, Failure> {
    Ok(runtime(args, options(None, None)?))
}

/// The runtime's timeouts, from flags and environment.
pub fn options(boot: Option<&OsStr>, stop: Option<&OsStr>) -> Result<Options, Failure> {
    resolve::pod::options(boot, stop, &own_variable).map_err(usage_error)
}

fn own_variable(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

pub fn host() -> io::Result<Host<'static>> {
    Ok(Host {
        memory_mib: resolve::memory_of_host()?,
        env: &own_variable,
        stdin_tty: io::stdin().is_terminal(),
        pid: std::process::id(),
    })
}

/// A mistake on the command line is a usage error; a mistake in a configuration file is a failure.
pub fn usage_error(error: ResolveError) -> Failure {
    let code = match error {
        ResolveError::Api(_) => FAILED,
        _ => USAGE,
    };
    Failure::new(code, error)
}

/// The failure of a verb that passes on the exit code of a command in the guest: 125.
pub fn run_failure(failure: Failure) -> Failure {
    match failure.code {
        FAILED | USAGE => failure.with_code(RUN_FAILED),
        _ => failure,
    }
}

/// The failure to start a command: 127 if it does not exist, 126 if it cannot be executed, else 125.
pub fn start_failure(error: Error) -> Failure {
    let kind = match &error {
        Error::Backend { source, .. } => source.remote_kind(),
        _ => None,
    };
    let code = match kind {
        Some(RemoteErrorKind::ProgramNotFound) => 127,
        Some(RemoteErrorKind::ProgramNotExecutable) => 126,
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

/// Runs `one` for every id, even after a failure, and prints the ids for which it succeeded.
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

/// Repeats short waits until one yields a value or `timeout` has passed (`None`).
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

pub fn state_text(state: Option<State>) -> String {
    state.map_or_else(|| "unknown".to_owned(), |state| state.name().to_owned())
}
