//! One hook of the host, run by [`hutch_hook`] on the calling thread, so that the hook is born in that thread's
//! namespaces (P-165).

use std::time::Duration;

use hutch_hook::{command, set_environment, state_file, Capture, HookCause, HookFailure};

use super::HookState;
use crate::spec::HookSpec;

/// Bytes kept of each output stream; the rest is read and dropped.
const MAX_OUTPUT: usize = 64 << 10;

/// Runs a hook to its end.
pub(crate) fn run(hook: &HookSpec, state: &HookState) -> Result<(), HookFailure> {
    let mut command = command(&hook.path, &hook.args);
    set_environment(&mut command, &hook.env);
    let state = serde_json::to_vec(state).map_err(Into::into).and_then(|state| state_file(&state));
    let launch = |error| HookFailure { cause: HookCause::Launch(error), stdout: String::new(), stderr: String::new() };
    let timeout = (hook.timeout > 0).then(|| Duration::from_secs(hook.timeout));
    hutch_hook::run(command, state.map_err(launch)?, timeout, Capture::Separate(MAX_OUTPUT))
}
