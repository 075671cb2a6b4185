//! The runtime: a store, the backends, and the options. Its methods are the entry points; each verb has a file of its
//! own below `pod/` and `container/`.

use std::sync::Arc;

use log::Log;

use crate::backend::{noop, AgentHost, Backends, Cgroups, HostMounts, Network, Shims, VmHost};
use crate::logger;
use crate::options::Options;
use crate::spec::{AgentKind, HypervisorKind, NetworkKind, PodConfig, ShimKind};
use crate::store::Store;

/// The pod API over one store. Cheap to clone; keeps no state of its own between calls: every call reads the records,
/// so any number of runtimes, in any number of processes, can work on the same store.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) backends: Backends,
    pub(crate) options: Options,
}

impl Runtime {
    /// A runtime over `store` that reaches everything outside through `backends`.
    pub fn new(store: Store, backends: Backends, options: Options) -> Self {
        Self { inner: Arc::new(Inner { store, backends, options }) }
    }

    /// Where the records are.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The bounds and policies.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Sends the log of all runtimes of this process to `logger`; each record carries source and architecture (SetLogger of
    /// the pod contract).
    pub fn set_logger(&self, logger: Arc<dyn Log>) {
        logger::set_logger(Some(logger));
    }

    /// The backends that a pod of this configuration uses: those that were given, or those that do nothing.
    pub(crate) fn backends_for(&self, config: &PodConfig) -> Backends {
        let given = &self.inner.backends;
        Backends {
            vm: match config.hypervisor.kind {
                HypervisorKind::Hutch => given.vm.clone(),
                HypervisorKind::None => Arc::new(noop::NoVm) as Arc<dyn VmHost>,
            },
            agent: match config.agent.kind {
                AgentKind::Hutch => given.agent.clone(),
                AgentKind::None => Arc::new(noop::NoAgent) as Arc<dyn AgentHost>,
            },
            shims: match config.shim.kind {
                ShimKind::Hutch => given.shims.clone(),
                ShimKind::None => Arc::new(noop::NoShims) as Arc<dyn Shims>,
            },
            network: match config.network.kind {
                NetworkKind::Scan | NetworkKind::Nat => given.network.clone(),
                NetworkKind::None => Arc::new(noop::NoNetwork) as Arc<dyn Network>,
            },
            mounts: match config.hypervisor.kind {
                HypervisorKind::Hutch => given.mounts.clone(),
                HypervisorKind::None => Arc::new(noop::NoMounts) as Arc<dyn HostMounts>,
            },
            cgroups: match config.hypervisor.kind {
                HypervisorKind::Hutch => given.cgroups.clone(),
                HypervisorKind::None => Arc::new(noop::NoCgroups) as Arc<dyn Cgroups>,
            },
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("store", &self.inner.store).finish_non_exhaustive()
    }
}
