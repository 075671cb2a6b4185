//! The backends as the product uses them: processes of hutch, kernel networking, bind mounts, control groups.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{AgentCapabilities, Backends};
use crate::cgroup::CgroupFs;
use crate::mounts::BindMounts;
use crate::network::TcNetwork;
use crate::shim::ProcessShims;
use crate::vm_host::{ProcessVmHost, VsockAgents};

pub use crate::vm_host::ReExec;

/// Hidden verb of the VMM process: [`init`](crate::init()) does its work.
pub const VMM_VERB: &str = "__vmm";
/// Hidden verb of a shim: [`init`](crate::init()) does its work.
pub const SHIM_VERB: &str = "__shim";

/// Configuration of the product's backends.
#[derive(Debug, Clone)]
pub struct HostBackends {
    /// Starts a VMM process.
    pub vmm: ReExec,
    /// Starts a shim.
    pub shim: ReExec,
    /// Directory for the network namespaces that are made for pods.
    pub network_namespaces: PathBuf,
    /// Where control groups are mounted.
    pub cgroups: PathBuf,
    /// Capabilities of the guest's agent.
    pub agent: AgentCapabilities,
    /// Reap the processes that this program has started. For long-lived programs.
    pub reap: bool,
}

impl Default for HostBackends {
    fn default() -> Self {
        Self {
            vmm: ReExec::itself(VMM_VERB),
            shim: ReExec::itself(SHIM_VERB),
            network_namespaces: "/run/hutch/pods.netns".into(),
            cgroups: "/sys/fs/cgroup".into(),
            agent: AgentCapabilities { block_devices: true, seccomp: true, ..AgentCapabilities::default() },
            reap: false,
        }
    }
}

impl HostBackends {
    /// The backends.
    pub fn backends(&self) -> Backends {
        let vm = ProcessVmHost { reap: self.reap, ..ProcessVmHost::new(self.vmm.clone()) };
        let shims = ProcessShims { reap: self.reap, ..ProcessShims::new(self.shim.clone()) };
        Backends {
            vm: Arc::new(vm),
            agent: Arc::new(VsockAgents { capabilities: self.agent }),
            shims: Arc::new(shims),
            network: Arc::new(TcNetwork::new(&self.network_namespaces)),
            mounts: Arc::new(BindMounts),
            cgroups: Arc::new(CgroupFs::new(&self.cgroups)),
        }
    }
}
