//! The records of one container, as a call has read them.

use crate::id::ContainerId;
use crate::process::ProcessIdentity;
use crate::spec::{ContainerConfig, ContainerStatus};
use crate::state::State;
use crate::store::{ContainerDirs, ContainerState, DevicesRecord, MountsRecord, ProcessRecord, Store};
use crate::Result;

/// The records of one container of an open pod.
pub(crate) struct OpenContainer {
    pub(crate) id: ContainerId,
    pub(crate) dirs: ContainerDirs,
    pub(crate) config: ContainerConfig,
    pub(crate) state: ContainerState,
    pub(crate) process: Option<ProcessRecord>,
    pub(crate) mounts: MountsRecord,
    pub(crate) devices: DevicesRecord,
}

impl OpenContainer {
    /// A container that is about to be created.
    pub(crate) fn new(id: ContainerId, dirs: ContainerDirs, config: ContainerConfig) -> Self {
        let devices = DevicesRecord(config.machine_devices());
        let (state, process, mounts) = (ContainerState::default(), None, MountsRecord::default());
        Self { id, dirs, config, state, process, mounts, devices }
    }

    /// Reads the container's records; `config` is its part of the pod's record. A missing record means "none yet"
    /// (P-046).
    pub(crate) fn load(store: &Store, id: ContainerId, dirs: ContainerDirs, config: ContainerConfig) -> Result<Self> {
        let devices = store.get(&dirs.devices_record())?.unwrap_or_else(|| DevicesRecord(config.machine_devices()));
        Ok(Self {
            state: store.get(&dirs.state_record())?.unwrap_or_default(),
            process: store.get(&dirs.process_record())?,
            mounts: store.get(&dirs.mounts_record())?.unwrap_or_default(),
            devices,
            config,
            id,
            dirs,
        })
    }

    /// A container of a pod whose host was restarted: whatever its records say, it has ended.
    pub(crate) fn restarted(id: ContainerId, dirs: ContainerDirs, config: ContainerConfig) -> Self {
        let state = ContainerState { state: Some(State::Stopped), ..ContainerState::default() };
        Self { state, ..Self::new(id, dirs, config) }
    }

    /// A container that no pod lists, or whose records are damaged. Records that cannot be read name nothing that could
    /// be released.
    pub(crate) fn load_leftover(store: &Store, id: ContainerId, dirs: ContainerDirs) -> Self {
        Self {
            config: ContainerConfig { id: id.to_string(), ..ContainerConfig::default() },
            state: store.get_or_warn(&dirs.state_record()).unwrap_or_default(),
            process: store.get_or_warn(&dirs.process_record()),
            mounts: store.get_or_warn(&dirs.mounts_record()).unwrap_or_default(),
            devices: store.get_or_warn(&dirs.devices_record()).unwrap_or_default(),
            id,
            dirs,
        }
    }

    /// The shim of the init process; [`ProcessIdentity::NONE`] if there is none.
    pub(crate) fn shim(&self) -> ProcessIdentity {
        self.process.as_ref().map_or(ProcessIdentity::NONE, |process| process.shim)
    }

    /// Whether a stop has nothing left to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.state == Some(State::Stopped)
    }

    /// The status as the records have it (P-115).
    pub(crate) fn status(&self) -> ContainerStatus {
        ContainerStatus {
            id: self.id.to_string(),
            state: self.state.state,
            pid: self.shim().pid,
            started_at: self.process.as_ref().map(|process| process.started_at),
            rootfs: self.config.rootfs.clone(),
            annotations: self.config.annotations.clone(),
            exit: self.state.exit.clone(),
            oom_killed: self.state.oom_killed,
        }
    }
}
