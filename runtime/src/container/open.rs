//! A container of an open pod, with the pod: what the verbs of containers work on.

use std::ops::{Deref, DerefMut};

use crate::backend::VmState;
use crate::container::{ContainerHandle, OpenContainer};
use crate::error::Result;
use crate::id::ContainerId;
use crate::pod::OpenPod;
use crate::state::{Object, State};
use crate::store::ContainerState;

/// A container and its pod. Dereferences to the container's records.
pub(crate) struct ContainerRef<'p, 'r> {
    pub(crate) pod: &'p mut OpenPod<'r>,
    /// Position in the pod's list. The list cannot change while this borrows the pod.
    position: usize,
}

impl Deref for ContainerRef<'_, '_> {
    type Target = OpenContainer;

    fn deref(&self) -> &OpenContainer {
        &self.pod.containers[self.position]
    }
}

impl DerefMut for ContainerRef<'_, '_> {
    fn deref_mut(&mut self) -> &mut OpenContainer {
        &mut self.pod.containers[self.position]
    }
}

impl<'r> OpenPod<'r> {
    /// A container of the pod, to be changed.
    pub(crate) fn container(&mut self, id: &ContainerId) -> Result<ContainerRef<'_, 'r>> {
        match self.containers.iter().position(|container| container.id == *id) {
            Some(position) => Ok(ContainerRef { pod: self, position }),
            None => Err(self.no_such_container(id)),
        }
    }

    /// Adds a container to the end of the list, in memory.
    pub(crate) fn push_container(&mut self, container: OpenContainer) -> ContainerRef<'_, 'r> {
        self.containers.push(container);
        let position = self.containers.len() - 1;
        ContainerRef { pod: self, position }
    }

    /// Runs `job` on each container in creation order, up to the first failure.
    pub(crate) fn for_each_container(
        &mut self,
        mut job: impl FnMut(&mut ContainerRef<'_, 'r>) -> Result<()>,
    ) -> Result<()> {
        (0..self.containers.len()).try_for_each(|position| job(&mut ContainerRef { pod: self, position }))
    }
}

impl ContainerRef<'_, '_> {
    /// The handle that a call returns.
    pub(crate) fn handle(&self) -> ContainerHandle {
        ContainerHandle::new(self.pod, self)
    }

    /// Takes the container off the pod's list, in memory.
    pub(crate) fn remove(self) -> OpenContainer {
        self.pod.containers.remove(self.position)
    }

    /// Writes the state record, and on success changes it in memory.
    pub(crate) fn put_state(&mut self, next: ContainerState) -> Result<()> {
        self.pod.store().put(&self.dirs.state_record(), &next)?;
        self.state = next;
        Ok(())
    }

    /// Moves the container from its present state to `to`, with `change` made to its record in the same write.
    pub(crate) fn set_state(&mut self, to: State, change: impl FnOnce(&mut ContainerState)) -> Result<()> {
        if let Some(from) = self.state.state.filter(|from| *from != to) {
            from.check(Object::Container(self.id.to_string()), from, to)?;
        }
        let mut next = self.state.clone();
        change(&mut next);
        next.state = Some(to);
        self.put_state(next)
    }

    /// Writes the container's config record.
    pub(crate) fn put_config(&self) -> Result<()> {
        self.pod.store().put(&self.dirs.config_record(), &self.config)
    }

    /// Runs `job`; paused vCPUs are resumed for its duration. The guest could not answer otherwise.
    pub(crate) fn with_vcpus_running<T>(&mut self, job: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let paused = self.pod.state.state == State::Paused && self.pod.sandbox.vm_state() == VmState::Paused;
        if !paused {
            return job(self);
        }
        self.pod.sandbox.vm_call("resume", |vm| vm.resume())?;
        let result = job(self);
        let paused = self.pod.sandbox.vm_call("pause", |vm| vm.pause());
        let result = result?;
        paused?;
        Ok(result)
    }
}
