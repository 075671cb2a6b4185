//! A pod during one call: its lock, its records, its running half.

use std::time::Duration;

use crate::container::OpenContainer;
use crate::error::{Error, Object, Result};
use crate::id::{ContainerId, PodId};
use crate::pod::Sandbox;
use crate::runtime::Runtime;
use crate::spec::PodConfig;
use crate::state::State;
use crate::store::{LockMode, PodDirs, PodLock, PodState, Store};
use crate::volume::VolumeHold;

/// A pod whose records have been read, usually under its lock.
pub(crate) struct OpenPod<'r> {
    pub(crate) rt: &'r Runtime,
    pub(crate) lock: Option<PodLock>,
    pub(crate) id: PodId,
    pub(crate) dirs: PodDirs,
    pub(crate) config: PodConfig,
    pub(crate) state: PodState,
    /// In creation order. Reached through [`OpenPod::containers`], [`OpenPod::find`] and
    /// [`ContainerRef`](crate::container::ContainerRef).
    pub(crate) containers: Vec<OpenContainer>,
    pub(crate) sandbox: Sandbox,
    /// Volumes in use, from this call until they are on record.
    pub(crate) volumes: Vec<VolumeHold>,
    /// A container whose disks the guest did not unmount before this call ended the machine.
    pub(crate) lost_writes: Option<String>,
}

impl<'r> OpenPod<'r> {
    /// Opens the pod for reading, together with other readers. A pause that was cut short is taken back first: the guest
    /// would not answer.
    pub(crate) fn shared(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let pod = OpenPod::shared_within(rt, id, rt.options().lock_timeout)?;
        if !pod.state.pausing || pod.lock.is_none() {
            return Ok(pod);
        }
        // The lock is not upgraded in place (P-024).
        drop(pod);
        drop(OpenPod::exclusive(rt, id)?);
        OpenPod::shared_within(rt, id, rt.options().lock_timeout)
    }

    /// As [`OpenPod::shared`], with another bound for the wait.
    pub(crate) fn shared_within(rt: &'r Runtime, id: &PodId, timeout: Duration) -> Result<OpenPod<'r>> {
        let lock = match rt.store().lock(id, LockMode::Shared, timeout) {
            // The call that holds the lock waits for this process, a hook of it, and changes nothing meanwhile.
            Err(Error::Timeout { .. }) if rt.store().is_held_by_ancestor(id) => None,
            other => other?,
        };
        let mut pod = OpenPod::load(rt, id)?;
        pod.lock = lock;
        Ok(pod)
    }

    /// Opens the pod exclusively, and removes what a call that died half way has left in it.
    pub(crate) fn exclusive(rt: &'r Runtime, id: &PodId) -> Result<OpenPod<'r>> {
        let lock = OpenPod::lock_exclusive(rt, id)?;
        let mut pod = OpenPod::load(rt, id)?;
        pod.lock = Some(lock);
        pod.cleanup()?;
        Ok(pod)
    }

    /// Takes the exclusive lock of an existing pod. Leftovers of an unfinished creation or deletion are removed: they
    /// are not a pod.
    pub(crate) fn lock_exclusive(rt: &Runtime, id: &PodId) -> Result<PodLock> {
        let store = rt.store();
        let lock = match store.lock_existing(id, rt.options().lock_timeout) {
            Err(Error::Timeout { .. }) if store.is_held_by_ancestor(id) => {
                let reason =
                    "is held by the call that runs this process as a hook; a hook can read its pod, not change it";
                return Err(Error::invalid(format!("pod {id}"), reason));
            }
            other => other?,
        };
        if !store.exists(&store.pod(id))? {
            store.check_removable(&store.pod(id))?;
            OpenPod::discard_leftovers(rt, id)?;
            return Err(Error::NoSuchPod(id.to_string()));
        }
        Ok(lock)
    }

    /// A pod that is about to be created, under its new lock.
    pub(crate) fn fresh(rt: &'r Runtime, lock: PodLock, id: PodId, config: PodConfig) -> OpenPod<'r> {
        let dirs = rt.store().pod(&id);
        let sandbox = Sandbox::new(rt.backends_for(&config), rt.options().clone(), None);
        let state = PodState::new(State::Ready);
        OpenPod { lock: Some(lock), ..OpenPod::without_containers(rt, id, dirs, config, state, sandbox) }
    }

    /// A pod in memory without its lock and its containers.
    pub(super) fn without_containers(
        rt: &'r Runtime,
        id: PodId,
        dirs: PodDirs,
        config: PodConfig,
        state: PodState,
        sandbox: Sandbox,
    ) -> OpenPod<'r> {
        let containers = Vec::new();
        OpenPod { rt, lock: None, id, dirs, config, state, containers, sandbox, volumes: Vec::new(), lost_writes: None }
    }

    pub(crate) fn store(&self) -> &'r Store {
        self.rt.store()
    }

    pub(crate) fn object(&self) -> Object {
        Object::Pod(self.id.to_string())
    }

    /// The containers, in creation order.
    pub(crate) fn containers(&self) -> &[OpenContainer] {
        &self.containers
    }

    /// A container, to be read.
    pub(crate) fn find(&self, id: &ContainerId) -> Result<&OpenContainer> {
        let found = self.containers.iter().find(|container| container.id == *id);
        found.ok_or_else(|| self.no_such_container(id))
    }

    pub(crate) fn no_such_container(&self, id: &ContainerId) -> Error {
        Error::NoSuchContainer { pod: self.id.to_string(), container: id.to_string() }
    }

    /// Gives the lock up and keeps the running half.
    pub(crate) fn into_sandbox(self) -> Sandbox {
        self.sandbox
    }

    /// Writes the pod's state record as it is in memory.
    pub(crate) fn put_state(&self) -> Result<()> {
        self.store().put(&self.dirs.state_record(), &self.state)
    }

    /// Moves the pod from `expected` to `to`, on disk and in memory (P-011, P-012).
    pub(crate) fn set_state(&mut self, expected: State, to: State) -> Result<()> {
        self.state.state.check(self.object(), expected, to)?;
        let next = PodState { state: to, pausing: false, ..self.state.clone() };
        self.store().put(&self.dirs.state_record(), &next)?;
        self.state = next;
        Ok(())
    }

    /// Writes the pod's config record, with the containers as they are now.
    pub(crate) fn put_config(&mut self) -> Result<()> {
        self.config.containers = self.containers.iter().map(|container| container.config.clone()).collect();
        self.store().put(&self.dirs.config_record(), &self.config)
    }

    /// Writes the hypervisor record.
    pub(crate) fn put_vm_record(&self) -> Result<()> {
        match self.sandbox.record() {
            Some(record) => self.store().put(&self.dirs.vm_record(), record),
            None => self.store().delete(&self.dirs.vm_record()),
        }
    }
}
