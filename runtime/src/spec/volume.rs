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
}
