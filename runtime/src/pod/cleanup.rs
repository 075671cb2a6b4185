//! Removing the leftovers of calls that died half way: containers that the pod does not list, pods that do not exist.

use std::time::Duration;

use crate::container::OpenContainer;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, Sandbox};
use crate::runtime::Runtime;
use crate::spec::{BlockIndices, NetworkConfig, NetworkKind, PodConfig};
use crate::state::State;
use crate::store::{remove_temporary, LockMode, Place, PodState, StoreCause};

impl OpenPod<'_> {
    /// Removes leftovers of calls on this pod. Under the exclusive lock only.
    pub(crate) fn cleanup(&mut self) -> Result<()> {
        if self.state.pausing {
            self.take_pause_back();
        }
        // A paused guest cannot be asked. Leftovers then go when the pod is stopped, or after it was resumed.
        if self.state.state != State::Paused && !self.state.pausing {
            self.discard_unlisted()?;
        }
        // A call that was killed between two records may have left them inconsistent. The containers' records decide
        // (P-185).
        let indices = self.containers().iter().flat_map(|container| {
            let devices = container.devices.0.iter().filter_map(|device| device.index);
            devices.chain(container.state.block_index)
        });
        self.state.blocks = BlockIndices::of(indices);
        self.remove_temporary();
        for container in self.containers() {
            remove_temporary(container.dirs.config_dir(), Place::ContainerConfig);
            remove_temporary(container.dirs.run_dir(), Place::ContainerRun);
        }
        Ok(())
    }

    /// Removes containers that the pod does not list.
    pub(crate) fn discard_unlisted(&mut self) -> Result<()> {
        for id in self.dirs.container_dirs()? {
            if self.find(&id).is_ok() {
                continue;
            }
            match self.discard_container(&id) {
                // Something of others must not keep the pod from being stopped.
                Err(Error::Store { source: source @ StoreCause::Foreign, path }) => {
                    logger::warn!("pod {}: {}", self.id, Error::Store { source, path }.chain());
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Rolls back everything that a creation of the unlisted container `id` may have done (P-048, P-096).
    pub(crate) fn discard_container(&mut self, id: &ContainerId) -> Result<()> {
        let dirs = self.dirs.container(id);
        self.store().check_container_removable(&dirs)?;
        let leftover = OpenContainer::load_leftover(self.store(), id.clone(), dirs);
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
        OpenPod::without_containers(rt, id.clone(), dirs, config, state, sandbox)
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
        self.remove_temporary();
        store.delete(&self.dirs.state_record())
    }

    fn remove_temporary(&self) {
        remove_temporary(self.dirs.config_dir(), Place::PodConfig);
        remove_temporary(self.dirs.run_dir(), Place::PodRun);
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
        store.remove_config_dir(&self.dirs)?;
        store.delete(&self.dirs.state_record())?;
        store.remove_run_dir(&self.dirs)
    }
}

/// The work of a clean-up.
#[derive(Debug, Default)]
pub struct Cleanup {
    /// Ids whose leftovers were removed or, if nothing was to be removed, were found.
    pub leftovers: Vec<String>,
    /// The reasons why some others stay.
    pub refused: Vec<Error>,
}

impl Runtime {
    /// Removes what creations and deletions that died half way have left on the host, except for ids that another call
    /// works on right now. Returns the ids cleaned. Does not touch pods, nor anything that hutch did not make.
    ///
    /// # Errors
    /// [`Error::Store`] if a root cannot be read or is not hutch's; otherwise the first failure, after all ids were
    /// tried.
    pub fn cleanup(&self) -> Result<Vec<String>> {
        let Cleanup { leftovers, refused } = self.cleanup_each(false)?;
        refused.into_iter().next().map_or(Ok(leftovers), Err)
    }

    /// As [`Runtime::cleanup`], with every failure; with `dry_run` it only finds what would be removed.
    ///
    /// # Errors
    /// [`Error::Store`] if a root cannot be read or is not hutch's. Nothing was removed then.
    pub fn cleanup_each(&self, dry_run: bool) -> Result<Cleanup> {
        let store = self.store();
        store.check_roots()?;
        let mut done = Cleanup::default();
        for id in store.all_ids()? {
            match self.cleanup_one(&id, dry_run) {
                Ok(true) => done.leftovers.push(id.to_string()),
                Ok(false) => {}
                Err(error) => done.refused.push(error),
            }
        }
        if !dry_run {
            done.refused.extend(store.remove_temporary_dirs().err());
        }
        Ok(done)
    }

    fn cleanup_one(&self, id: &PodId, dry_run: bool) -> Result<bool> {
        let store = self.store();
        let dirs = store.pod(id);
        store.check_owner(&dirs)?;
        if store.exists(&dirs)? {
            return Ok(false);
        }
        let lock = match store.lock(id, LockMode::Exclusive, Duration::ZERO) {
            // Another call works on it.
            Err(Error::Timeout { .. }) => return Ok(false),
            // No lock file: only a creation can work on it, and that takes the same lock first.
            Err(Error::NoSuchPod(_)) if dry_run => None,
            Err(Error::NoSuchPod(_)) => match store.lock_new(id, Duration::ZERO) {
                Err(Error::Timeout { .. } | Error::AlreadyExists(_)) => return Ok(false),
                other => Some(other?),
            },
            Ok(None) => return Ok(false),
            Ok(lock) => lock,
            Err(e) => return Err(e),
        };
        if store.exists(&dirs)? {
            return Ok(false);
        }
        store.check_removable(&dirs)?;
        if !dry_run {
            OpenPod::discard_leftovers(self, id)?;
        }
        drop(lock);
        Ok(true)
    }
}
