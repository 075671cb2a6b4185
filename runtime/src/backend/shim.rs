//! The host process that stands for a guest process: its PID is what callers see.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BackendResult;
use crate::capture::StdioConfig;
use crate::process::ProcessIdentity;

/// The PID namespace of a shim (P-097, P-122).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidNamespace {
    /// A new one: the shim of a container.
    New,
    /// That of the container's own shim: an exec.
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
    /// Where it leaves its [`ExitRecord`](crate::store::ExitRecord).
    pub exit_record: PathBuf,
    /// Where it leaves a [`FailureRecord`](crate::store::FailureRecord) if the machine dies under it.
    pub failure_record: PathBuf,
    /// Terminal that becomes its standard streams and its controlling terminal.
    pub console: Option<PathBuf>,
    /// The guest process has a terminal.
    pub terminal: bool,
    /// The guest process has a stdin.
    pub stdin: bool,
    /// The caller goes away: no standard streams (unless there is a console).
    pub detach: bool,
    /// Its standard streams, as far as they are not inherited. They reach the process as descriptors.
    #[serde(skip)]
    pub stdio: StdioConfig,
    /// Network namespace to join.
    pub network_namespace: Option<PathBuf>,
    /// PID namespace.
    pub pid_namespace: PidNamespace,
}

/// Makes and finds shims.
pub trait Shims: Send + Sync {
    /// Spawns a shim. It does nothing until [`Shim::start`], and ends by itself if the handle is dropped
    /// before.
    ///
    /// # Errors
    /// If the process cannot be made; none is left then.
    fn spawn(&self, spec: &ShimSpec) -> BackendResult<Box<dyn Shim>>;

    /// Whether the process lives. Nobody (PID 0) does not.
    fn is_alive(&self, process: ProcessIdentity) -> bool;

    /// Waits for the end of the process, at most `timeout`; tells whether it has come.
    ///
    /// # Errors
    /// If waiting is not possible.
    fn wait_end(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<bool>;

    /// Kills the process and waits until it is gone; one that is gone is fine.
    ///
    /// # Errors
    /// If it is not gone within `timeout`.
    fn kill(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<()>;
}

/// A shim that waits to be released.
pub trait Shim: Send {
    /// The process; nobody for a kind that makes none.
    fn process(&self) -> ProcessIdentity;

    /// Lets it go on. From here on it lives as long as the guest process.
    ///
    /// # Errors
    /// If it is gone already.
    fn start(self: Box<Self>) -> BackendResult<()>;
}
