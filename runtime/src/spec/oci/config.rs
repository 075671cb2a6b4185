//! The parts of an OCI `config.json` that the host acts on, with the types of `oci-spec`. Unknown fields are ignored here
//! and reach the guest with the raw JSON.
//!
//! Four types are our own. `oci-spec` refuses a process without `user` or `cwd` (P-007 wants defaults) and capabilities as
//! one flat list (pod contract, §10); and its `Spec`, `Linux` and `LinuxResources` refuse a configuration for a mistake
//! in a section that means nothing to the host, such as device rules, which do not reach the guest either. Their code would
//! also bring a machine for regular expressions into the program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, LinuxCpu, LinuxDevice, LinuxMemory, LinuxNamespace, LinuxPids, Mount, Root, User};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// An OCI runtime configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OciConfig {
    pub(crate) process: Option<OciProcess>,
    pub(crate) root: Option<Root>,
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) linux: Option<OciLinux>,
}

/// `process`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OciProcess {
    pub(crate) terminal: bool,
    pub(crate) user: Option<User>,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) capabilities: Option<Value>,
    pub(crate) no_new_privileges: bool,
}

/// `linux`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OciLinux {
    pub(crate) namespaces: Option<Vec<LinuxNamespace>>,
    pub(crate) devices: Option<Vec<LinuxDevice>>,
    pub(crate) resources: Option<OciResources>,
    pub(crate) cgroups_path: String,
}

/// `linux.resources`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct OciResources {
    pub(crate) cpu: Option<LinuxCpu>,
    pub(crate) memory: Option<LinuxMemory>,
    pub(crate) pids: Option<LinuxPids>,
}

impl OciConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with line and column of the first mistake.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::invalid("OCI config.json", e.to_string()))
    }
}
