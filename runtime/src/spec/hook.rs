//! Hooks: host programs that run at fixed points of a pod's life (pod contract, §8).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::need_absolute;
use crate::error::{Error, Result};

/// A hook (P-160).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HookSpec {
    /// Absolute path on the host (`start_container`: in the container).
    pub path: PathBuf,
    /// Arguments including the program's name; empty: only the path.
    pub args: Vec<String>,
    /// The whole environment, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// Timeout in seconds; 0 means none: the call that runs the hook, and with it the pod's lock, then waits for as long as
    /// the hook runs.
    #[serde(alias = "timeout_secs")]
    pub timeout: u64,
}

/// The hooks of a pod, each list run in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// In the pod's network namespace, before its interfaces are looked up. A failure fails the creation.
    pub prestart: Vec<HookSpec>,
    /// As `prestart`, and right after it.
    #[serde(alias = "createRuntime")]
    pub create_runtime: Vec<HookSpec>,
    /// On the host in the VMM's namespaces, before the first container is created. A failure fails the creation.
    #[serde(alias = "createContainer")]
    pub create_container: Vec<HookSpec>,
    /// In the guest, inside the container, before its program.
    #[serde(alias = "startContainer")]
    pub start_container: Vec<HookSpec>,
    /// After the last container has started, in the caller's namespaces. Failures are logged.
    pub poststart: Vec<HookSpec>,
    /// After the pod's network was removed, in the caller's namespaces. Failures are logged.
    pub poststop: Vec<HookSpec>,
}

impl Hooks {
    /// Whether all lists are empty.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &HookSpec> {
        let Hooks { prestart, create_runtime, create_container, start_container, poststart, poststop } = self;
        [prestart, create_runtime, create_container, start_container, poststart, poststop].into_iter().flatten()
    }

    /// Checks every hook.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a path that is not absolute or an environment entry without `=`.
    pub fn validate(&self) -> Result<()> {
        for hook in self.iter() {
            if hook.path.as_os_str().is_empty() {
                return Err(Error::invalid("hook path", "is empty"));
            }
            need_absolute("hook path", &hook.path)?;
            super::parse_env(&hook.env)?;
        }
        Ok(())
    }
}
