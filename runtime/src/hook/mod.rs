//! Host programs that run at fixed points of a pod's life (pod contract, §8).

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::fault;
use crate::logger;
use crate::spec::HookSpec;

pub use hutch_hook::{HookCause, HookFailure};
pub(crate) use run::run;

/// The state of the OCI runtime specification, which a hook reads on its stdin (P-161).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// Version of the OCI runtime specification.
    pub oci_version: String,
    /// Id of the pod.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// A process whose main thread is in the pod's network namespace: the VMM (P-167). Absent when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Bundle of the sandbox container; empty without one.
    pub bundle: PathBuf,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Runs hooks in order; the first failure ends the list (P-063).
pub(crate) fn run_fatal(kind: &'static str, hooks: &[HookSpec], state: &HookState) -> Result<()> {
    for hook in hooks {
        fault::point_of(kind, "before")?;
        run(hook, state).map_err(|source| Error::Hook { path: hook.path.clone(), source })?;
        fault::point_of(kind, "after")?;
    }
    Ok(())
}

/// Runs all hooks in order; failures are logged (P-076, P-088, P-164).
pub(crate) fn run_logged(kind: &'static str, hooks: &[HookSpec], state: &HookState) -> Result<()> {
    for hook in hooks {
        fault::point_of(kind, "before")?;
        if let Err(failure) = run(hook, state) {
            logger::warn!("pod {}: {kind} hook {}: {failure}", state.id, hook.path.display());
        }
        fault::point_of(kind, "after")?;
    }
    Ok(())
}
