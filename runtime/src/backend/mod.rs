//! What the pod API needs from outside: six small traits (§11 of the contract).
//!
//! The product puts a VMM process, an agent session, shim processes, kernel networking and bind mounts behind them;
//! [`noop`] does nothing, successfully; `crate::testing` models a guest, records calls and injects failures.
//!
//! Every creating operation is split so that the runtime can record what it is about to need for the clean-up: a VMM
//! or a shim that was spawned does nothing until it is told to go on, and ends by itself if the runtime dies first
//! (P-206). Every removing operation succeeds if there is nothing left to remove.

mod agent;
mod cgroup;
mod mounts;
mod network;
pub mod noop;
mod shim;
mod vm;

pub use agent::{AgentCapabilities, AgentHost, AgentSession};
pub use cgroup::Cgroups;
pub use mounts::{HostMounts, RootDisk};
pub use network::{run_in_namespace, Namespace, Network};
pub use shim::{PidNamespace, Shim, ShimSpec, Shims};
pub use vm::{
    BlockDevice, NetDevice, Share, VmCapabilities, VmHandle, VmHost, VmLaunch, VmSpec, VmState, VmStats, SHARED_TAG,
};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{ErrorKind, RemoteError};

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A bounded wait ran out.
    #[error("not within {} s", .after.as_secs_f32())]
    Timeout {
        /// The bound.
        after: Duration,
    },
    /// The other side is gone; nothing further on this channel can succeed.
    #[error("{0}")]
    Lost(String),
    /// The guest agent refused.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The other side said no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It cannot do that at all.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: String,
        /// How it failed.
        source: io::Error,
    },
}

impl BackendError {
    /// A failed system call.
    pub fn system(what: impl Into<String>, source: io::Error) -> Self {
        BackendError::System { what: what.into(), source }
    }

    /// Whether later requests on the same channel will fail as well (P-205).
    pub fn is_lost(&self) -> bool {
        matches!(self, BackendError::Lost(_) | BackendError::Timeout { .. })
    }

    /// Class of the guest agent's refusal, if it is one.
    pub fn remote_kind(&self) -> Option<ErrorKind> {
        match self {
            BackendError::Remote(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Whether the guest says that the process or container is not there any more.
    pub fn is_gone(&self) -> bool {
        match self {
            BackendError::Remote(error) => error.kind == ErrorKind::NotFound || error.errno == Some(libc::ESRCH),
            _ => false,
        }
    }
}

/// Result of a backend.
pub type BackendResult<T> = Result<T, BackendError>;

/// The outside as one runtime uses it.
#[derive(Clone)]
pub struct Backends {
    /// Makes and finds VMM processes.
    pub vm: Arc<dyn VmHost>,
    /// Opens sessions with guest agents.
    pub agent: Arc<dyn AgentHost>,
    /// Makes and finds shims.
    pub shims: Arc<dyn Shims>,
    /// Namespaces and endpoints.
    pub network: Arc<dyn Network>,
    /// Bind mounts.
    pub mounts: Arc<dyn HostMounts>,
    /// Control groups.
    pub cgroups: Arc<dyn Cgroups>,
}

impl Backends {
    /// Backends that do nothing.
    pub fn noop() -> Self {
        Self {
            vm: Arc::new(noop::NoVm),
            agent: Arc::new(noop::NoAgent),
            shims: Arc::new(noop::NoShims),
            network: Arc::new(noop::NoNetwork),
            mounts: Arc::new(noop::NoMounts),
            cgroups: Arc::new(noop::NoCgroups),
        }
    }
}
