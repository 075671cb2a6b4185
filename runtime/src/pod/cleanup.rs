//! Removing what calls that died half way have left: containers that the pod does not list, pods that do not exist.

use std::path::Path;

use hutch_agent_proto::Request;

use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{Live, OpenContainer, OpenPod};
use crate::runtime::Runtime;
use crate::spec::{BlockIndices, ContainerConfig, NetworkConfig, NetworkKind, PodConfig};
use crate::state::State;
use crate::store::{LockMode, PodState, Record, RecordPath, Store};

impl OpenPod<'_> {
    /// Removes leftovers of calls on this pod. Under the exclusive lock only.
    pub(crate) fn cleanup(&mut self) -> Result<()> {
        for id in self.dirs.container_dirs()? {
            if self.find(&id).is_err() {
                self.discard_container(&id)?;
            }
        }
        // A call that was killed between two records may have left them at odds; containers know what they have (P-185).
        let indices = self.containers.iter().flat_map(|container| {
            let devices = container.devices.0.iter().filter_map(|device| device.index);
            devices.chain(container.state.block_index)
        });
        self.state.blocks = BlockIndices::of(indices);
        remove_temporary(self.dirs.config_dir());
        remove_temporary(self.dirs.run_dir());
        for container in &self.containers {
            remove_temporary(container.dirs.config_dir());
            remove_temporary(container.dirs.run_dir());
        }
        Ok(())
    }

    /// Takes back everything that a creation of the unlisted container `id` may have done (P-048, P-096).
    pub(crate) fn discard_container(&mut self, id: &ContainerId) -> Result<()> {
        let dirs = self.dirs.container(id);
        let store = self.store();
        // Records that cannot be read name nothing that could be released.
        let leftover = OpenContainer {
            id: id.clone(),
            config: ContainerConfig { id: id.to_string(), ..ContainerConfig::default() },
            state: read_or_warn(store, &dirs.state_record()).unwrap_or_default(),
            process: read_or_warn(store, &dirs.process_record()),
            mounts: read_or_warn(store, &dirs.mounts_record()).unwrap_or_default(),
            devices: read_or_warn(store, &dirs.devices_record()).unwrap_or_default(),
            dirs,
        };
        self.containers.push(leftover);
        let index = self.containers.len() - 1;
        let result = self.roll_back_container(index);
        let leftover = self.containers.remove(index);
        result?;
        self.remove_container_dirs(&leftover.id)?;
        self.sync_size()
    }

    /// Shims, guest container, binds, devices, disk, newest first; not the directories.
    pub(crate) fn roll_back_container(&mut self, index: usize) -> Result<()> {
        self.teardown_execs(index)?;
        self.kill_shim(self.containers[index].shim())?;
        if self.live.vm_alive() && !self.live.agent_lost() {
            let id = self.containers[index].id.to_string();
            let removed = self.live.tell_gone("remove-container", Request::RemoveContainer { id, force: true });
            match removed.and_then(|()| self.unmount_disks(index)) {
                // A guest that does not answer cannot be waited for; the host's side is released all the same.
                Err(e) if !e.is_guest_lost() => return Err(e),
                _ => {}
            }
        }
        self.teardown_container(index)
    }

    /// Removes everything that is left of a pod without config record. Under its exclusive lock; the lock file goes
    /// last.
    pub(crate) fn discard_leftovers(rt: &Runtime, id: &PodId) -> Result<()> {
        OpenPod::of_leftovers(rt, id).discard()
    }

    /// A shim for a pod whose configuration is not known: enough to find what it holds on the host.
    pub(crate) fn of_leftovers<'r>(rt: &'r Runtime, id: &PodId) -> OpenPod<'r> {
        let store = rt.store();
        let dirs = store.pod(id);
        // The given backends, not those that do nothing: they find nothing to do where nothing was done.
        let mut config = PodConfig { id: id.to_string(), ..PodConfig::default() };
        config.network = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
        let live = Live::new(rt.backends_for(&config), rt.options().clone(), read_or_warn(store, &dirs.vm_record()));
        let state = read_or_warn(store, &dirs.state_record()).unwrap_or_else(|| PodState::new(State::Stopped));
        OpenPod {
            rt,
            lock: None,
            id: id.clone(),
            dirs,
            config,
            state,
            containers: Vec::new(),
            live,
            volumes: Vec::new(),
        }
    }

    /// Kills what lives, releases what is held, removes what is stored, the lock file last.
    pub(crate) fn discard(&mut self) -> Result<()> {
        self.discard_contents()?;
        self.remove_records()
    }

    /// Kills what lives and releases what is held; removes what is stored except the lock file.
    pub(crate) fn discard_contents(&mut self) -> Result<()> {
        self.live.kill_vm()?;
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
        if let Some(record) = self.live.record() {
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
    /// Removes what creations and deletions that died half way have left on the host, of every id that nobody works
    /// on right now; returns the ids cleaned. Pods are not touched.
    ///
    /// # Errors
    /// [`Error::Store`] if a root cannot be read; the first failure of a cleaning, after the others were tried.
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
            // Someone is at it.
            Err(Error::Timeout { .. }) => return Ok(false),
            // No lock file: nobody can be at it except a creation that takes the same lock first.
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

/// A record, or `None` if there is none that can be read.
pub(crate) fn read_or_warn<T: Record>(store: &Store, at: &RecordPath<T>) -> Option<T> {
    store.get(at).unwrap_or_else(|e| {
        logger::warn!("{}; ignored while cleaning", e.chain());
        None
    })
}

/// Removes temporary files of writes that never came to their end. Their names, and no others, hold a blank.
fn remove_temporary(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().contains(' ') && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
