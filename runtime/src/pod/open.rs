//! A pod during one call: its lock, its records, its live half.

use std::time::Duration;

use crate::error::{Error, Object, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::Live;
use crate::process::ProcessIdentity;
use crate::runtime::Runtime;
use crate::spec::{ContainerConfig, PodConfig};
use crate::state::State;
use crate::store::{
    ContainerDirs, ContainerState, DevicesRecord, LockMode, MountsRecord, PodDirs, PodLock, PodState, ProcessRecord,
    Store,
};
use crate::volume::VolumeHold;

/// A pod whose records have been read, usually under its lock.
pub(crate) struct OpenPod<'r> {
    pub(crate) rt: &'r Runtime,
    pub(crate) lock: Option<PodLock>,
    pub(crate) id: PodId,
    pub(crate) dirs: PodDirs,
    pub(crate) config: PodConfig,
    pub(crate) state: PodState,
    pub(crate) containers: Vec<OpenContainer>,
    pub(crate) live: Live,
    /// Volumes that this call is about to use.
    pub(crate) volumes: Vec<VolumeHold>,
}

/// One of its containers.
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
    /// The shim of its init process; nobody if there is none.
    pub(crate) fn shim(&self) -> ProcessIdentity {
        self.process.as_ref().map_or(ProcessIdentity::NONE, |process| process.shim)
    }

    /// Whether it has something that a stop has to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.state == Some(State::Stopped)
    }
}

impl<'r> OpenPod<'r> {
    /// Opens the pod for reading, together with other readers.
    pub(crate) fn shared(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        OpenPod::shared_within(rt, id, rt.options().lock_timeout)
    }

    /// As [`OpenPod::shared`], with another bound for the wait.
    pub(crate) fn shared_within(rt: &'r Runtime, id: &PodId, patience: Duration) -> Result<OpenPod<'r>> {
        let lock = rt.store().lock(id, LockMode::Shared, patience)?;
        let mut pod = OpenPod::load(rt, id)?;
        pod.lock = lock;
        Ok(pod)
    }

    /// Opens the pod alone, and removes what a call that died half way has left in it.
    pub(crate) fn exclusive(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let lock = OpenPod::lock_exclusive(rt, id)?;
        let mut pod = OpenPod::load(rt, id)?;
        pod.lock = Some(lock);
        pod.cleanup()?;
        Ok(pod)
    }

    /// Takes the exclusive lock of an existing pod. What a creation or deletion has left without finishing is removed;
    /// it never was, or no longer is, a pod.
    pub(crate) fn lock_exclusive(rt: &Runtime, id: &PodId) -> Result<PodLock> {
        let store = rt.store();
        let lock = store.lock_existing(id, rt.options().lock_timeout)?;
        if !store.exists(&store.pod(id))? {
            OpenPod::discard_leftovers(rt, id)?;
            return Err(Error::NoSuchPod(id.to_string()));
        }
        Ok(lock)
    }

    /// A pod that is about to be created, under its new lock.
    pub(crate) fn fresh(rt: &'r Runtime, lock: PodLock, id: PodId, config: PodConfig) -> OpenPod<'r> {
        let dirs = rt.store().pod(&id);
        let live = Live::new(rt.backends_for(&config), rt.options().clone(), None);
        let state = PodState::new(State::Ready);
        OpenPod { rt, lock: Some(lock), id, dirs, config, state, containers: Vec::new(), live, volumes: Vec::new() }
    }

    pub(crate) fn store(&self) -> &'r Store {
        self.rt.store()
    }

    pub(crate) fn object(&self) -> Object {
        Object::Pod(self.id.to_string())
    }

    /// Index of a container.
    pub(crate) fn find(&self, id: &ContainerId) -> Result<usize> {
        self.containers
            .iter()
            .position(|container| container.id == *id)
            .ok_or_else(|| Error::NoSuchContainer { pod: self.id.to_string(), container: id.to_string() })
    }

    /// Writes the pod's state record as it is in memory.
    pub(crate) fn put_state(&self) -> Result<()> {
        self.store().put(&self.dirs.state_record(), &self.state)
    }

    /// Moves the pod from `expected` to `to`, on disk and in memory (P-011, P-012).
    pub(crate) fn set_state(&mut self, expected: State, to: State) -> Result<()> {
        self.state.state.check(self.object(), expected, to)?;
        let next = PodState { state: to, ..self.state.clone() };
        self.store().put(&self.dirs.state_record(), &next)?;
        self.state = next;
        Ok(())
    }

    /// Writes a container's state record, and on success changes it in memory.
    pub(crate) fn put_container(&mut self, index: usize, next: ContainerState) -> Result<()> {
        let container = &mut self.containers[index];
        self.rt.store().put(&container.dirs.state_record(), &next)?;
        container.state = next;
        Ok(())
    }

    /// Moves a container from its present state to `to`, with `change` made to its record in the same write.
    pub(crate) fn set_container_state(
        &mut self,
        index: usize,
        to: State,
        change: impl FnOnce(&mut ContainerState),
    ) -> Result<()> {
        let container = &self.containers[index];
        if let Some(from) = container.state.state.filter(|from| *from != to) {
            from.check(Object::Container(container.id.to_string()), from, to)?;
        }
        let mut next = container.state.clone();
        change(&mut next);
        next.state = Some(to);
        self.put_container(index, next)
    }

    /// Writes the pod's config record, with the containers as they are now.
    pub(crate) fn put_config(&mut self) -> Result<()> {
        self.config.containers = self.containers.iter().map(|container| container.config.clone()).collect();
        self.store().put(&self.dirs.config_record(), &self.config)
    }

    /// Writes the hypervisor record.
    pub(crate) fn put_vm_record(&self) -> Result<()> {
        match self.live.record() {
            Some(record) => self.store().put(&self.dirs.vm_record(), record),
            None => self.store().delete(&self.dirs.vm_record()),
        }
    }
}
