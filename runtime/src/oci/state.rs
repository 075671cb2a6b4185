//! `state` of the OCI runtime specification (P-195).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::runtime::Runtime;
use crate::spec::oci::{BUNDLE_KEY, CONFIG_KEY, ROLE_KEY};
use crate::state::State;
use crate::timestamp::Timestamp;

/// `status` of the OCI runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OciStatus {
    /// Being created.
    Creating,
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Ended.
    Stopped,
}

impl From<Option<State>> for OciStatus {
    fn from(state: Option<State>) -> Self {
        match state {
            None => OciStatus::Creating,
            Some(State::Ready) => OciStatus::Created,
            Some(State::Running) => OciStatus::Running,
            Some(State::Paused) => OciStatus::Paused,
            Some(State::Stopped) => OciStatus::Stopped,
        }
    }
}

/// The state of a container, as `state` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState {
    /// Version of the OCI runtime specification.
    pub oci_version: String,
    /// Id of the container.
    pub id: String,
    /// Status at the time of the call.
    pub status: OciStatus,
    /// PID of the container's shim; absent once the container has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Path of the bundle; empty if the container was not created from one.
    pub bundle: PathBuf,
    /// Annotations of the container's configuration.
    pub annotations: BTreeMap<String, String>,
    /// Root file system on the host.
    pub rootfs: PathBuf,
    /// Time at which the container's process was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

impl Runtime {
    /// Returns the state of a container in any pod.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`](crate::Error::NoSuchContainer); else as [`Runtime::status_container`].
    ///
    /// # Examples
    /// See [`Runtime::oci_create`].
    pub fn oci_state(&self, id: &str) -> Result<OciState> {
        let found = self.find_container(id)?;
        let status = self.status_container(&found.pod, id)?;
        let oci_status = OciStatus::from(status.state);
        let mut annotations = status.annotations;
        let bundle = annotations.remove(BUNDLE_KEY).unwrap_or_default();
        annotations.remove(CONFIG_KEY);
        annotations.remove(ROLE_KEY);
        Ok(OciState {
            oci_version: "1.2.0".into(),
            id: id.into(),
            status: oci_status,
            pid: (oci_status != OciStatus::Stopped && status.pid > 0).then_some(status.pid),
            bundle: bundle.into(),
            annotations,
            rootfs: status.rootfs,
            created: status.started_at,
        })
    }
}
