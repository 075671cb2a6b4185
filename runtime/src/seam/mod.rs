//! What the pod API needs from outside: six small traits (§11 of the contract).
//!
//! The product puts a VMM process, an agent session, stand-in processes, kernel networking and bind mounts behind them;
//! [`noop`] does nothing, successfully; `crate::testing` models a guest, records calls and injects failures.
//!
//! Every creating operation is split so that the runtime can record what it is about to need for the clean-up: a VMM
//! or a stand-in that was spawned does nothing until it is told to go on, and ends by itself if the runtime dies first
//! (P-206). Every removing operation succeeds if there is nothing left to remove.

mod agent;
mod cgroup;
mod mounts;
mod network;
pub mod noop;
mod stand_in;
mod vm;

pub use agent::{AgentCapabilities, AgentHost, AgentSession};
pub use cgroup::Cgroups;
pub use mounts::{HostMounts, RootDisk};
pub use network::{run_in_namespace, Namespace, Network};
pub use stand_in::{PidNamespace, StandIn, StandInSpec, StandIns};
pub use vm::{
    BlockDevice, NetDevice, Share, VmCapabilities, VmHandle, VmHost, VmLaunch, VmSpec, VmState, VmStats, SHARED_TAG,
};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{ErrorKind, RemoteError};

/// Why a seam failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeamError {
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

impl SeamError {
    /// A failed system call.
    pub fn system(what: impl Into<String>, source: io::Error) -> Self {
        SeamError::System { what: what.into(), source }
    }

    /// Whether later requests on the same channel will fail as well (P-205).
    pub fn is_lost(&self) -> bool {
        matches!(self, SeamError::Lost(_) | SeamError::Timeout { .. })
    }

    /// Class of the guest agent's refusal, if it is one.
    pub fn remote_kind(&self) -> Option<ErrorKind> {
        match self {
            SeamError::Remote(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Whether the guest says that the process or container is not there any more.
    pub fn is_gone(&self) -> bool {
        match self {
            SeamError::Remote(error) => error.kind == ErrorKind::NotFound || error.errno == Some(libc::ESRCH),
            _ => false,
        }
    }
}

/// Result of a seam.
pub type SeamResult<T> = Result<T, SeamError>;

/// The outside as one runtime uses it.
#[derive(Clone)]
pub struct Seams {
    /// Makes and finds VMM processes.
    pub vm: Arc<dyn VmHost>,
    /// Opens sessions with guest agents.
    pub agent: Arc<dyn AgentHost>,
    /// Makes and finds stand-ins.
    pub stand_ins: Arc<dyn StandIns>,
    /// Namespaces and endpoints.
    pub network: Arc<dyn Network>,
    /// Bind mounts.
    pub mounts: Arc<dyn HostMounts>,
    /// Control groups.
    pub cgroups: Arc<dyn Cgroups>,
}

impl Seams {
    /// Seams that do nothing.
    pub fn noop() -> Self {
        Self {
            vm: Arc::new(noop::NoVm),
            agent: Arc::new(noop::NoAgent),
            stand_ins: Arc::new(noop::NoStandIns),
            network: Arc::new(noop::NoNetwork),
            mounts: Arc::new(noop::NoMounts),
            cgroups: Arc::new(noop::NoCgroups),
        }
    }
}
