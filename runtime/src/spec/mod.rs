//! Configurations of pods and containers as callers give them, checked before any other action (pod contract, §10).
//!
//! All types read and write JSON and TOML; [`pod_schema`] and [`container_schema`] describe them. A field that the
//! types do not know is an error, so that misspelt fields are found.
//!
//! | file | contents |
//! |---|---|
//! | `pod`, `container` | the two configurations |
//! | `command`, `capability`, `signal` | the program of a container or exec; its capability sets; signals by name |
//! | `hypervisor`, `kinds` | the configuration of the machine; the implementations that a pod can choose |
//! | `network`, `volume`, `hook` | network and ports; directories shared into the machine; hooks |
//! | `device` | host devices of containers, and the slots of hot-plugged ones |
//! | `limits` | limits of containers, and the size of the machine that follows from them |
//! | `annotation` | annotations that change a machine, and the host's policy for them |
//! | `seccomp` | seccomp profiles |
//! | `status` | the status of pods and containers |
//! | `oci` | from and to OCI `config.json` |

mod annotation;
mod capability;
mod command;
mod container;
mod device;
mod hook;
mod hypervisor;
mod kinds;
mod limits;
mod network;
pub mod oci;
mod pod;
mod seccomp;
mod signal;
mod status;
mod volume;

#[cfg(test)]
mod tests;

pub use annotation::{AssetPolicy, Override, ANNOTATION_PREFIX, KATA_PREFIX};
pub use capability::Capabilities;
pub use command::{parse_env, parse_user, Command, EnvVar};
pub use container::{ContainerConfig, MountSpec};
pub use device::{BlockIndices, BlockVolume, Bridge, Device, DeviceInfo, DeviceKind};
pub use hook::{HookSpec, Hooks};
pub(crate) use hypervisor::PLATFORM_MAX_VCPUS;
pub use hypervisor::{
    BlockDriver, HypervisorConfig, Jail, KernelParameter, DEFAULT_MEMORY_MIB, DEFAULT_VCPUS, MIN_MEMORY_MIB,
};
pub use kinds::{AgentKind, HypervisorKind, NetworkKind, ProxyKind, ShimKind};
pub use limits::{memory_mib, memory_mib_for_all, vcpus_for_all, Resources};
pub use network::{NetworkConfig, PortForward, Protocol};
pub use pod::{AgentConfig, PodConfig, ProxyConfig, ShimConfig, VmResources, MAX_HOSTNAME};
pub use seccomp::{Seccomp, SeccompAction, SeccompArg, SeccompFlag, SeccompOperator, SeccompProfile, SeccompRule};
pub use signal::parse_signal;
pub use status::{ContainerStatus, Exit, PodStatus};
pub use volume::{CacheMode, SetIds, Volume};

pub(crate) use device::device_id;

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a configuration from JSON text.
///
/// # Errors
/// [`Error::InvalidConfig`] with line and column of the first mistake.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::invalid("configuration", e.to_string()))
}

/// Reads a configuration from TOML text.
///
/// # Errors
/// [`Error::InvalidConfig`] with line and column of the first mistake.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| Error::invalid("configuration", e.to_string()))
}

/// Reads a configuration file: TOML if its name ends in `.toml`, else JSON.
///
/// # Errors
/// [`Error::NeedFile`] for an empty path, [`Error::InvalidConfig`] if the file cannot be read or parsed.
pub fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T> {
    if path.as_os_str().is_empty() {
        return Err(Error::NeedFile("the configuration"));
    }
    let name = format!("configuration {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Error::invalid(name.clone(), e.to_string()))?;
    let parsed = match path.extension().is_some_and(|extension| extension == "toml") {
        true => from_toml(&text),
        false => from_json(&text),
    };
    parsed.map_err(|e| match e {
        Error::InvalidConfig { reason, .. } => Error::invalid(name, reason),
        other => other,
    })
}

/// JSON schema of [`PodConfig`].
pub fn pod_schema() -> serde_json::Value {
    schemars::schema_for!(PodConfig).to_value()
}

/// JSON schema of [`ContainerConfig`].
pub fn container_schema() -> serde_json::Value {
    schemars::schema_for!(ContainerConfig).to_value()
}

/// Refuses a relative path.
pub(crate) fn need_absolute(what: &str, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} {}", path.display()), "must be an absolute path"))
}
