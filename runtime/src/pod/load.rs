//! Reading a pod. Changes nothing, needs no boot assets, calls no backend (P-044, P-045).

use std::io;

use crate::container::OpenContainer;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::{OpenPod, Sandbox};
use crate::runtime::Runtime;
use crate::store::{PodDirs, PodState, StoreCause};

impl<'r> OpenPod<'r> {
    /// Reads the records of `id`, locked or not.
    pub(crate) fn load(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let store = rt.store();
        let dirs = store.pod(id);
        let config = store.get(&dirs.config_record())?.ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let restarted = store.was_restarted(&dirs)?;
        let state = match store.get(&dirs.state_record())? {
            _ if restarted => PodState::restarted(),
            Some(state) => state,
            None if store.is_lost(&dirs)? => {
                return Err(Error::Store { path: dirs.run_dir().to_owned(), source: StoreCause::Lost })
            }
            // Read again, since a call that refreshes the pod may have written it meanwhile (P-043).
            None => store.need(&dirs.state_record())?,
        };
        let containers = config
            .containers
            .iter()
            .map(|config| {
                let id = ContainerId::new(&config.id).map_err(|e| damaged(&dirs, &e))?;
                let container = dirs.container(&id);
                match restarted {
                    true => Ok(OpenContainer::restarted(id, container, config.clone())),
                    false => OpenContainer::load(store, id, container, config.clone()),
                }
            })
            .collect::<Result<_>>()?;
        let vm = if restarted { None } else { store.get(&dirs.vm_record())? };
        let sandbox = Sandbox::new(rt.backends_for(&config), rt.options().clone(), vm);
        Ok(OpenPod {
            rt,
            lock: None,
            id: id.clone(),
            dirs,
            config,
            state,
            containers,
            sandbox,
            volumes: Vec::new(),
            lost_writes: None,
        })
    }
}

fn damaged(pod: &PodDirs, error: &Error) -> Error {
    let source = StoreCause::Read(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
    Error::Store { path: pod.config_record().path().to_owned(), source }
}
