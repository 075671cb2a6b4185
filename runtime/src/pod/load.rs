//! Reading a pod. Changes nothing, needs no boot assets, calls no seam (P-044, P-045).

use std::io;

use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::{Live, OpenContainer, OpenPod};
use crate::runtime::Runtime;
use crate::spec::ContainerConfig;
use crate::state::State;
use crate::store::{DevicesRecord, PodDirs, PodState, Store, StoreCause, HOST_RESTARTED};

impl<'r> OpenPod<'r> {
    /// Reads the records of `id`, locked or not.
    pub(crate) fn load(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let store = rt.store();
        let dirs = store.pod(id);
        let config = store.get(&dirs.config_record())?.ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let (state, restarted) = match store.get(&dirs.state_record())? {
            Some(state) => (state, false),
            // Without a runtime directory the host was restarted; with one, the record was lost (P-043, P-049).
            None if !run_dir_exists(&dirs)? => {
                (PodState { reason: Some(HOST_RESTARTED.into()), ..PodState::new(State::Stopped) }, true)
            }
            None => {
                let path = dirs.state_record().path().to_owned();
                return Err(Error::Store { path, source: StoreCause::Missing });
            }
        };
        let containers =
            config.containers.iter().map(|c| load_container(store, &dirs, c, restarted)).collect::<Result<_>>()?;
        let live = Live::new(rt.seams_for(&config), rt.options().clone(), store.get(&dirs.vm_record())?);
        Ok(OpenPod { rt, lock: None, id: id.clone(), dirs, config, state, containers, live })
    }
}

fn run_dir_exists(dirs: &PodDirs) -> Result<bool> {
    let fail = |e: io::Error| Error::Store { path: dirs.run_dir().to_owned(), source: StoreCause::Read(e) };
    dirs.run_dir().try_exists().map_err(fail)
}

/// The container's config with the per-container records laid over it; a missing one means "none yet" (P-046).
fn load_container(store: &Store, pod: &PodDirs, config: &ContainerConfig, restarted: bool) -> Result<OpenContainer> {
    let id = ContainerId::new(&config.id).map_err(|e| damaged(pod, &e))?;
    let dirs = pod.container(&id);
    let mut state = store.get(&dirs.state_record())?.unwrap_or_default();
    if restarted {
        state.state = Some(State::Stopped);
    }
    let devices = store
        .get(&dirs.devices_record())?
        .unwrap_or_else(|| DevicesRecord(config.devices.iter().filter_map(|device| device.resolve()).collect()));
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
