//! The backends as the product uses them: processes of hutch, kernel networking, bind mounts, control groups.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{AgentCapabilities, Backends};
use crate::cgroup::CgroupFs;
use crate::mounts::BindMounts;
use crate::network::TcNetwork;
use crate::shim::ProcessShims;
use crate::store::Store;
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
    /// Directory for the network namespaces that are made for pods. `None`: beside the run root of the store, with its
    /// name and `.netns`. Two stores may use the same pod ids, so each needs a directory of its own.
    pub network_namespaces: Option<PathBuf>,
    /// Where control groups are mounted.
    pub cgroups: PathBuf,
    /// Capabilities of the guest's agent.
    pub agent: AgentCapabilities,
    /// Reap the VMM processes and shims that this program has started. The default: otherwise they stay zombies for as
    /// long as this program lives. A program that ends after a call or two can save the thread for each shim.
    pub reap: bool,
}

impl Default for HostBackends {
    fn default() -> Self {
        Self {
            vmm: ReExec::itself(VMM_VERB),
            shim: ReExec::itself(SHIM_VERB),
            network_namespaces: None,
            cgroups: "/sys/fs/cgroup".into(),
            agent: AgentCapabilities { block_devices: true, seccomp: true, ..AgentCapabilities::default() },
            reap: true,
        }
    }
}

impl HostBackends {
    /// The backends of a runtime over `store`.
    pub fn backends(&self, store: &Store) -> Backends {
        let vm = ProcessVmHost { reap: self.reap, ..ProcessVmHost::new(self.vmm.clone()) };
        let shims = ProcessShims { reap: self.reap, ..ProcessShims::new(self.shim.clone()) };
        Backends {
            vm: Arc::new(vm),
            agent: Arc::new(VsockAgents { capabilities: self.agent }),
            shims: Arc::new(shims),
            network: Arc::new(TcNetwork::new(self.namespaces_of(store))),
            mounts: Arc::new(BindMounts),
            cgroups: Arc::new(CgroupFs::new(&self.cgroups)),
        }
    }

    /// The directory of network namespaces. Absolute: other processes use it, with other working directories.
    fn namespaces_of(&self, store: &Store) -> PathBuf {
        let dir = self.network_namespaces.clone().unwrap_or_else(|| {
            let run_root = store.run_root();
            let mut name = run_root.file_name().unwrap_or_default().to_owned();
            name.push(".netns");
            match run_root.file_name() {
                Some(_) => run_root.with_file_name(name),
                None => run_root.join(name),
            }
        });
        std::path::absolute(&dir).unwrap_or(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_namespaces_lie_beside_the_run_root_unless_named() {
        let of = |run_root: &str| HostBackends::default().namespaces_of(&Store::new("/c", run_root));
        assert_eq!(of("/run/hutch/pods"), PathBuf::from("/run/hutch/pods.netns"));
        assert_eq!(of("/tmp/mine/state/"), PathBuf::from("/tmp/mine/state.netns"), "not below it, among the pods");
        assert_eq!(of("/"), PathBuf::from("/.netns"));
        assert_eq!(of("state"), std::env::current_dir().unwrap().join("state.netns"));
        let named = HostBackends { network_namespaces: Some("/run/other".into()), ..HostBackends::default() };
        assert_eq!(named.namespaces_of(&Store::new("/c", "/s")), PathBuf::from("/run/other"));
    }
}
