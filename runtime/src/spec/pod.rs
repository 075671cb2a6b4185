//! Configuration of a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    need_absolute, vcpus_for_all, AgentKind, ContainerConfig, Hooks, HypervisorConfig, NetworkConfig, ProxyKind,
    ShimKind, Volume,
};
use crate::error::{Error, Object, Result};
use crate::id::PodId;

/// Host names are cut to this many bytes for the guest (P-180).
pub const MAX_HOSTNAME: usize = 64;
/// Longest tag of a shared directory (VIRTIO 1.2, 5.11.4).
const MAX_TAG: usize = 36;

/// The configuration of a pod: a machine and its containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PodConfig {
    /// Unique on the host.
    pub id: String,
    /// Host name of the guest, cut to 64 bytes.
    pub hostname: String,
    /// Host programs that run at fixed points of the pod's life.
    pub hooks: Hooks,
    /// Size of the machine.
    pub resources: VmResources,
    /// The machine.
    pub hypervisor: HypervisorConfig,
    /// The agent in the guest.
    pub agent: AgentConfig,
    /// The proxy to the agent's channel.
    pub proxy: ProxyConfig,
    /// The host processes that represent processes of the guest.
    pub shim: ShimConfig,
    /// The network.
    pub network: NetworkConfig,
    /// Host directories shared into the machine.
    pub volumes: Vec<Volume>,
    /// Containers created with the pod; may be empty (P-062).
    pub containers: Vec<ContainerConfig>,
    /// Unique keys in reverse-domain form.
    pub annotations: BTreeMap<String, String>,
    /// Control group of the pod's processes on the host, below the root of the hierarchy; empty: the caller's group.
    pub cgroup: String,
}

/// Size of a pod's machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VmResources {
    /// Memory in MiB; replaces the hypervisor's memory unless 0.
    pub memory_mib: u64,
}

/// The agent in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Implementation of the agent.
    #[serde(rename = "type")]
    pub kind: AgentKind,
    /// Containers must have their OCI configuration as an annotation (P-101). Otherwise a missing one is derived from
    /// the container's own fields.
    pub require_oci_config: bool,
    /// Directory in the guest, outside of containers, with hooks that run there for each container: the executables in
    /// its `prestart`, `poststart` and `poststop` (P-166). For example one of the pod's volumes,
    /// `/run/hutch/volumes/TAG`.
    #[serde(alias = "guest_hook_path")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_hooks: Option<PathBuf>,
}

/// The proxy between the runtime and the agent's channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Implementation of the proxy.
    #[serde(rename = "type")]
    pub kind: ProxyKind,
}

/// The host processes that represent processes of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShimConfig {
    /// Implementation of the shim.
    #[serde(rename = "type")]
    pub kind: ShimKind,
}

impl PodConfig {
    /// Checks the whole configuration and fills in defaults. Reads no file.
    ///
    /// # Errors
    /// [`Error::NeedPodId`], [`Error::NeedContainerId`], [`Error::AlreadyExists`] for a container id given twice, else
    /// [`Error::InvalidConfig`].
    pub fn complete(mut self) -> Result<Self> {
        PodId::new(&self.id)?;
        if self.resources.memory_mib != 0 {
            self.hypervisor.memory_mib = self.resources.memory_mib;
        }
        self.hypervisor = self.hypervisor.complete()?;
        self.hooks.validate()?;
        self.network.validate()?;
        if self.hostname.contains(['\0', '/', ' ', '\n']) {
            return Err(Error::invalid(
                format!("hostname {:?}", self.hostname),
                "has a character that a host name cannot have",
            ));
        }
        if !self.cgroup.is_empty() && crate::cgroup::clean_name(&self.cgroup).is_none() {
            return Err(Error::invalid(format!("cgroup {:?}", self.cgroup), "does not name a group below the root"));
        }
        if let Some(path) = &self.agent.guest_hooks {
            need_absolute("agent.guest_hooks", path)?;
            if path.to_str().is_none_or(|path| path.contains('\0')) {
                return Err(Error::invalid(format!("agent.guest_hooks {}", path.display()), "is not plain text"));
            }
        }
        self.check_volumes()?;
        let mut seen = BTreeSet::new();
        for container in &self.containers {
            container.validate()?;
            if !seen.insert(&container.id) {
                return Err(Error::AlreadyExists(Object::Container(container.id.clone())));
            }
        }
        Ok(self)
    }

    fn check_volumes(&self) -> Result<()> {
        let mut tags = BTreeSet::new();
        for volume in &self.volumes {
            let what = format!("volume {:?}", volume.tag);
            if volume.tag.is_empty() || volume.tag.len() > MAX_TAG {
                return Err(Error::invalid(what, format!("needs a tag of 1 to {MAX_TAG} bytes")));
            }
            if volume.tag.starts_with("hutch") {
                return Err(Error::invalid(
                    what,
                    "has a prefix that is reserved for the runtime; choose a tag that does not begin with hutch",
                ));
            }
            need_absolute("volume", &volume.path)?;
            if !tags.insert(&volume.tag) {
                return Err(Error::invalid(what, "is given twice"));
            }
        }
        Ok(())
    }

    /// Host name of the guest, cut to 64 bytes at a character boundary (P-180).
    pub fn guest_hostname(&self) -> &str {
        let mut end = self.hostname.len().min(MAX_HOSTNAME);
        while !self.hostname.is_char_boundary(end) {
            end -= 1;
        }
        &self.hostname[..end]
    }

    /// Number of vCPUs for the current containers: the machine's own and the containers', up to the maximum (P-183).
    pub fn target_vcpus(&self) -> u32 {
        let extra = vcpus_for_all(self.containers.iter().map(|container| &container.resources));
        self.hypervisor.vcpus.saturating_add(extra).min(self.hypervisor.max_vcpus.max(1))
    }
}
