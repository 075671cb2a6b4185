//! The seams as the product uses them: processes of hutch, kernel networking, bind mounts, control groups.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cgroup::CgroupFs;
use crate::mounts::BindMounts;
use crate::network::TcNetwork;
use crate::seam::{AgentCapabilities, Seams};
use crate::stand_in::ProcessStandIns;
use crate::vm_host::{ProcessVmHost, ReExec, VsockAgents};

/// Hidden verb of the VMM process: its `main` calls [`vmm_verb`](crate::vm_host::vmm_verb).
pub const VMM_VERB: &str = "__vmm";
/// Hidden verb of a stand-in: its `main` calls [`stand_in_verb`](crate::stand_in::stand_in_verb).
pub const STAND_IN_VERB: &str = "__stand-in";

/// What the seams of a host need to know.
#[derive(Debug, Clone)]
pub struct HostSeams {
    /// How to start a VMM process.
    pub vmm: ReExec,
    /// How to start a stand-in.
    pub stand_in: ReExec,
    /// Directory for the network namespaces that are made for pods.
    pub network_namespaces: PathBuf,
    /// Where control groups are mounted.
    pub cgroups: PathBuf,
    /// What the guest's agent can do.
    pub agent: AgentCapabilities,
    /// This program lives on and collects the processes it has started.
    pub reap: bool,
}

impl Default for HostSeams {
    fn default() -> Self {
        Self {
            vmm: ReExec::itself(VMM_VERB),
            stand_in: ReExec::itself(STAND_IN_VERB),
            network_namespaces: "/run/hutch/pods.netns".into(),
            cgroups: "/sys/fs/cgroup".into(),
            agent: AgentCapabilities { block_devices: true, seccomp: true, ..AgentCapabilities::default() },
            reap: false,
        }
    }
}

impl HostSeams {
    /// The seams.
    pub fn seams(&self) -> Seams {
        let vm = ProcessVmHost { reap: self.reap, ..ProcessVmHost::new(self.vmm.clone()) };
        let stand_ins = ProcessStandIns { reap: self.reap, ..ProcessStandIns::new(self.stand_in.clone()) };
        Seams {
            vm: Arc::new(vm),
            agent: Arc::new(VsockAgents { capabilities: self.agent }),
            stand_ins: Arc::new(stand_ins),
            network: Arc::new(TcNetwork::new(&self.network_namespaces)),
            mounts: Arc::new(BindMounts),
            cgroups: Arc::new(CgroupFs::new(&self.cgroups)),
        }
    }
}
