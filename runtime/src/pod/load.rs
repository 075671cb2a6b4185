//! Reading a pod. Changes nothing, needs no boot assets, calls no backend (P-044, P-045).

use std::io;

use crate::container::OpenContainer;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::{OpenPod, Sandbox};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::{PodDirs, PodState, StoreCause};

impl<'r> OpenPod<'r> {
    /// Reads the records of `id`, locked or not.
    pub(crate) fn load(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let store = rt.store();
        let dirs = store.pod(id);
        let config = store.get(&dirs.config_record())?.ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let (state, restarted) = match store.get(&dirs.state_record())? {
            Some(state) => (state, false),
            // Without anything in the runtime directory the host was restarted; else the record was lost (P-043,
            // P-049).
            None if store.is_blank(&dirs)? => (PodState::restarted(), true),
            // Read again, since a call that refreshes the pod may have written it meanwhile.
            None => (store.need(&dirs.state_record())?, false),
        };
        let containers = config
            .containers
            .iter()
            .map(|config| {
                let id = ContainerId::new(&config.id).map_err(|e| damaged(&dirs, &e))?;
                let mut container = OpenContainer::load(store, id.clone(), dirs.container(&id), config.clone())?;
                if restarted {
                    container.state.state = Some(State::Stopped);
                }
                Ok(container)
            })
            .collect::<Result<_>>()?;
        let sandbox = Sandbox::new(rt.backends_for(&config), rt.options().clone(), store.get(&dirs.vm_record())?);
        Ok(OpenPod { rt, lock: None, id: id.clone(), dirs, config, state, containers, sandbox, volumes: Vec::new() })
    }
}

fn damaged(pod: &PodDirs, error: &Error) -> Error {
    let source = StoreCause::Read(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
    Error::Store { path: pod.config_record().path().to_owned(), source }
}
