//! Host directories shared into the machine.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A host directory that the guest can mount by its tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Mount tag, at most 36 bytes (VIRTIO 1.2, 5.11.4).
    pub tag: String,
    /// Directory on the host.
    pub path: PathBuf,
    /// The guest cannot write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Caching by the guest's kernel.
    #[serde(default)]
    pub cache: CacheMode,
    /// Set-id bits and file capabilities of files that the guest makes or changes.
    #[serde(default)]
    pub suid: SetIds,
    /// The guest may use `trusted.*` attributes.
    #[serde(default)]
    pub trusted: bool,
}

/// Caching of a shared directory by the guest's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Nothing: every look-up, read and write goes to the host.
    None,
    /// Names and attributes for a second, contents until a file is opened again.
    #[default]
    Auto,
    /// Everything, without a time limit: for directories that only this guest changes.
    Always,
}

/// The power on the host of files in a shared directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetIds {
    /// Set-id bits and `security.*` attributes are stored as the guest sets them.
    Keep,
    /// Files that the guest makes or changes get neither.
    #[default]
    Strip,
}
