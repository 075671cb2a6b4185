//! Everything that the pod API needs from outside, as six small traits (pod contract, §11).
//!
//! The product puts a VMM process, an agent session, shim processes, kernel networking and bind mounts behind them;
//! [`noop`] does nothing, successfully; the crate `hutch-runtime-fakes` models a guest, records
//! calls and injects failures.
//!
//! Every creating operation is split, so that the runtime can record first what a clean-up would need: a VMM or a shim
//! that was spawned does nothing until the runtime starts it, and ends by itself if the runtime dies first (P-206).
//! Every removing operation succeeds if there is nothing left to remove.

mod agent;
mod cgroup;
mod error;
mod mounts;
mod network;
pub mod noop;
mod shim;
mod vm;

pub use agent::{AgentCapabilities, AgentHost, AgentSession};
pub use cgroup::Cgroups;
pub use error::{BackendError, BackendResult};
pub use mounts::{HostMounts, RootDisk};
pub use network::{run_in_namespace, Namespace, Network};
pub use shim::{PidNamespace, Shim, ShimSpec, Shims};
pub use vm::{
    BlockDevice, NetDevice, Share, VmCapabilities, VmHandle, VmHost, VmLaunch, VmReply, VmRequest, VmSpec, VmState,
    VmStats, SHARED_TAG,
};

use std::sync::Arc;

/// The backends of one runtime.
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
