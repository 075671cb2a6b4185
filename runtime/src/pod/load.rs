//! Reading a pod. Changes nothing, needs no boot assets, calls no backend (P-044, P-045).

use std::io;

use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::{Live, OpenContainer, OpenPod};
use crate::runtime::Runtime;
use crate::spec::ContainerConfig;
use crate::state::State;
use crate::store::{DevicesRecord, PodDirs, PodState, Store, StoreCause};

impl<'r> OpenPod<'r> {
    /// Reads the records of `id`, locked or not.
    pub(crate) fn load(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let store = rt.store();
        let dirs = store.pod(id);
        let config = store.get(&dirs.config_record())?.ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let (state, restarted) = match store.get(&dirs.state_record())? {
            Some(state) => (state, false),
            // Without anything in the runtime directory the host was restarted; else the record was lost (P-043, P-049).
            None if store.is_blank(&dirs)? => (PodState::restarted(), true),
            // Looked for again, since a call that refreshes the pod may have written it meanwhile.
            None => (store.need(&dirs.state_record())?, false),
        };
        let containers =
            config.containers.iter().map(|c| load_container(store, &dirs, c, restarted)).collect::<Result<_>>()?;
        let live = Live::new(rt.backends_for(&config), rt.options().clone(), store.get(&dirs.vm_record())?);
        Ok(OpenPod { rt, lock: None, id: id.clone(), dirs, config, state, containers, live, volumes: Vec::new() })
    }
}

/// The container's config with the per-container records laid over it; a missing one means "none yet" (P-046).
fn load_container(store: &Store, pod: &PodDirs, config: &ContainerConfig, restarted: bool) -> Result<OpenContainer> {
    let id = ContainerId::new(&config.id).map_err(|e| damaged(pod, &e))?;
    let dirs = pod.container(&id);
    let mut state = store.get(&dirs.state_record())?.unwrap_or_default();
    if restarted {
        state.state = Some(State::Stopped);
    }
    let devices = store.get(&dirs.devices_record())?.unwrap_or_else(|| DevicesRecord(config.machine_devices()));
    Ok(OpenContainer {
        state,
        process: store.get(&dirs.process_record())?,
        mounts: store.get(&dirs.mounts_record())?.unwrap_or_default(),
        devices,
        config: config.clone(),
        id,
        dirs,
    })
}

fn damaged(pod: &PodDirs, error: &Error) -> Error {
    let source = StoreCause::Read(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
    Error::Store { path: pod.config_record().path().to_owned(), source }
}
