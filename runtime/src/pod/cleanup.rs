//! Removing the leftovers of calls that died half way: containers that the pod does not list, pods that do not exist.

use std::path::Path;

use crate::container::OpenContainer;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, Sandbox};
use crate::runtime::Runtime;
use crate::spec::{BlockIndices, NetworkConfig, NetworkKind, PodConfig};
use crate::state::State;
use crate::store::{LockMode, PodState};

impl OpenPod<'_> {
    /// Removes leftovers of calls on this pod. Under the exclusive lock only.
    pub(crate) fn cleanup(&mut self) -> Result<()> {
        for id in self.dirs.container_dirs()? {
            if self.find(&id).is_err() {
                self.discard_container(&id)?;
            }
        }
        // A call that was killed between two records may have left them inconsistent. The containers' records decide
        // (P-185).
        let indices = self.containers().iter().flat_map(|container| {
            let devices = container.devices.0.iter().filter_map(|device| device.index);
            devices.chain(container.state.block_index)
        });
        self.state.blocks = BlockIndices::of(indices);
        remove_temporary(self.dirs.config_dir());
        remove_temporary(self.dirs.run_dir());
        for container in self.containers() {
            remove_temporary(container.dirs.config_dir());
            remove_temporary(container.dirs.run_dir());
        }
        Ok(())
    }

    /// Rolls back everything that a creation of the unlisted container `id` may have done (P-048, P-096).
    pub(crate) fn discard_container(&mut self, id: &ContainerId) -> Result<()> {
        let leftover = OpenContainer::load_leftover(self.store(), id.clone(), self.dirs.container(id));
        let mut leftover = self.push_container(leftover);
        let result = leftover.roll_back();
        let leftover = leftover.remove();
        result?;
        self.remove_container_dirs(&leftover.id)?;
        self.sync_size()
    }

    /// Removes everything that is left of a pod without config record. Under its exclusive lock; the lock file goes
    /// last.
    pub(crate) fn discard_leftovers(rt: &Runtime, id: &PodId) -> Result<()> {
        OpenPod::of_leftovers(rt, id).discard()
    }

    /// A pod whose configuration is not known: enough to find what it holds on the host.
    pub(crate) fn of_leftovers<'r>(rt: &'r Runtime, id: &PodId) -> OpenPod<'r> {
        let store = rt.store();
        let dirs = store.pod(id);
        // The real backends rather than no-ops: where nothing was created they find nothing to remove.
        let mut config = PodConfig { id: id.to_string(), ..PodConfig::default() };
        config.network = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
        let sandbox =
            Sandbox::new(rt.backends_for(&config), rt.options().clone(), store.get_or_warn(&dirs.vm_record()));
        let state = store.get_or_warn(&dirs.state_record()).unwrap_or_else(|| PodState::new(State::Stopped));
        OpenPod {
            rt,
            lock: None,
            id: id.clone(),
            dirs,
            config,
            state,
            containers: Vec::new(),
            sandbox,
            volumes: Vec::new(),
        }
    }

    /// Kills processes, releases resources, removes records, and the lock file last.
    pub(crate) fn discard(&mut self) -> Result<()> {
        self.discard_contents()?;
        self.remove_records()
    }

    /// Kills processes, releases resources and removes records, except the lock file.
    pub(crate) fn discard_contents(&mut self) -> Result<()> {
        self.sandbox.kill_vm()?;
        for id in self.dirs.container_dirs()? {
            self.discard_container(&id)?;
        }
        self.teardown_network()?;
        self.teardown_mounts()?;
        self.forget_machine()?;
        let store = self.store();
        store.delete(&self.dirs.failure_record())?;
        store.remove_dir(&self.dirs.shared_dir())?;
        remove_temporary(self.dirs.config_dir());
        remove_temporary(self.dirs.run_dir());
        store.delete(&self.dirs.state_record())
    }

    /// Removes the pod's directories: first what is only needed while the pod exists, then the config record, which
    /// ends its existence, then the state and the lock.
    pub(crate) fn remove_records(&self) -> Result<()> {
        let store = self.store();
        if let Some(record) = self.sandbox.record() {
            store.remove_file(&record.socket)?;
        }
        store.delete(&self.dirs.agent_record())?;
        store.delete(&self.dirs.vm_record())?;
        store.delete(&self.dirs.network_record())?;
        store.remove_dir(&self.dirs.shared_dir())?;
        store.delete(&self.dirs.config_record())?;
        store.remove_dir(self.dirs.config_dir())?;
        store.delete(&self.dirs.state_record())?;
        store.remove_run_dir(&self.dirs)
    }
}

impl Runtime {
    /// Removes what creations and deletions that died half way have left on the host, except for ids that another call
    /// works on right now. Returns the ids cleaned. Does not touch pods.
    ///
    /// # Errors
    /// [`Error::Store`] if a root cannot be read; otherwise the first failure, after all ids were tried.
    pub fn cleanup(&self) -> Result<Vec<String>> {
        let store = self.store();
        let mut cleaned = Vec::new();
        let mut first = None;
        for id in store.all_ids()? {
            match self.cleanup_one(&id) {
                Ok(true) => cleaned.push(id.to_string()),
                Ok(false) => {}
                Err(error) => {
                    logger::warn!("pod {id}: cleaning: {}", error.chain());
                    first = first.or(Some(error));
                }
            }
        }
        first.map_or(Ok(cleaned), Err)
    }

    fn cleanup_one(&self, id: &PodId) -> Result<bool> {
        let store = self.store();
        if store.exists(&store.pod(id))? {
            return Ok(false);
        }
        let lock = match store.lock(id, LockMode::Exclusive, std::time::Duration::ZERO) {
            // Another call works on it.
            Err(Error::Timeout { .. }) => return Ok(false),
            // No lock file: only a creation can work on it, and that takes the same lock first.
            Err(Error::NoSuchPod(_)) => match store.lock_new(id, std::time::Duration::ZERO) {
                Err(Error::Timeout { .. } | Error::AlreadyExists(_)) => return Ok(false),
                other => other?,
            },
            Ok(None) => return Ok(false),
            Ok(Some(lock)) => lock,
            Err(e) => return Err(e),
        };
        if store.exists(&store.pod(id))? {
            return Ok(false);
        }
        OpenPod::discard_leftovers(self, id)?;
        drop(lock);
        Ok(true)
    }
}

/// Removes temporary files of unfinished writes. Their names, and no others, hold a blank.
fn remove_temporary(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().contains(' ') && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
