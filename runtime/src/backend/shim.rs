//! Shims: host processes that stand for guest processes. Callers see their PIDs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BackendResult;
use crate::capture::StdioConfig;
use crate::process::ProcessIdentity;
use crate::spec::Jail;

/// The PID namespace of a shim (P-097, P-122).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidNamespace {
    /// A new namespace, for the shim of a container.
    New,
    /// The namespace of the container's own shim, for an exec.
    Join(ProcessIdentity),
}

/// A shim to spawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimSpec {
    /// Id of the pod.
    pub pod: String,
    /// Id of the container.
    pub container: String,
    /// The guest process.
    pub token: String,
    /// Control socket of the VMM, behind which the agent answers.
    pub socket: PathBuf,
    /// Path for its [`ExitRecord`](crate::store::ExitRecord).
    pub exit_record: PathBuf,
    /// Path for a [`FailureRecord`](crate::store::FailureRecord), written if the machine dies first.
    pub failure_record: PathBuf,
    /// Terminal that becomes its standard streams and its controlling terminal.
    pub console: Option<PathBuf>,
    /// The guest process has a terminal.
    pub terminal: bool,
    /// The guest process has a stdin.
    pub stdin: bool,
    /// The caller does not stay: no standard streams, unless there is a console.
    pub detach: bool,
    /// Its standard streams, as far as they are not inherited. They reach the process as descriptors.
    #[serde(skip)]
    pub stdio: StdioConfig,
    /// Network namespace to join.
    pub network_namespace: Option<PathBuf>,
    /// PID namespace.
    pub pid_namespace: PidNamespace,
    /// Whether the process confines itself.
    #[serde(default)]
    pub jail: Jail,
}

/// Makes and finds shims.
pub trait Shims: Send + Sync {
    /// Spawns a shim. It does nothing until [`Shim::start`], and ends by itself if the handle is dropped
    /// before.
    ///
    /// # Errors
    /// If the process cannot be made; none is left then.
    fn spawn(&self, spec: &ShimSpec) -> BackendResult<Box<dyn Shim>>;

    /// Whether the process lives. [`ProcessIdentity::NONE`] does not.
    fn is_alive(&self, process: ProcessIdentity) -> bool;

    /// Waits for the end of the process, at most `timeout`; returns whether it has come.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    fn wait_end(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<bool>;

    /// Kills the process and waits until it is gone. A process that is gone already is fine.
    ///
    /// # Errors
    /// If it is not gone within `timeout`.
    fn kill(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<()>;
}

/// A shim that waits for its start.
pub trait Shim: Send {
    /// The process; [`ProcessIdentity::NONE`] for a kind that makes none.
    fn process(&self) -> ProcessIdentity;

    /// Starts the shim. From here on it lives as long as the guest process.
    ///
    /// # Errors
    /// If the shim has ended already.
    fn start(self: Box<Self>) -> BackendResult<()>;
}
