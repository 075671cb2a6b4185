//! Releasing what a pod holds on the host. Goes by the records and is idempotent: a stop, a rollback and the clean-up
//! after a call that died half way all use it.

use std::path::Path;

use crate::backend::Namespace;
use crate::error::{Component, Result};
use crate::id::ContainerId;
use crate::pod::{guarded, OpenPod};
use crate::process::ProcessIdentity;
use crate::store::{NetworkRecord, Place};

impl OpenPod<'_> {
    /// Kills a shim. [`ProcessIdentity::NONE`] and an ended one are fine.
    pub(crate) fn kill_shim(&self, process: ProcessIdentity) -> Result<()> {
        if !process.is_some() {
            return Ok(());
        }
        let (shims, timeout) = (&self.sandbox.backends.shims, self.rt.options().kill_timeout);
        guarded(Component::Shim, "kill", || shims.kill(process, timeout))
    }

    /// Takes a device out of the machine, if there is one, and off its bridge.
    pub(crate) fn unplug(&mut self, id: &str) -> Result<()> {
        if self.sandbox.vm_alive() {
            self.sandbox.vm_call("unplug", |vm| vm.unplug(id))?;
        }
        if let Some(record) = self.sandbox.record_mut() {
            for bridge in &mut record.bridges {
                // It may be missing: its plug failed before that.
                let _ = bridge.remove(id);
            }
            self.put_vm_record()?;
        }
        Ok(())
    }

    /// Detaches every endpoint and deletes the namespace if it was made for the pod (P-080, P-086, P-087). The VMM must
    /// have ended.
    pub(crate) fn teardown_network(&mut self) -> Result<()> {
        let Some(mut record) = self.store().get(&self.dirs.network_record())? else { return Ok(()) };
        let network = self.sandbox.backends.network.clone();
        let namespace = Namespace { path: record.namespace.clone(), created: record.created };
        while let Some(endpoint) = record.endpoints.pop() {
            guarded(Component::Network, "detach", || network.detach(&namespace, &endpoint))?;
            self.store().put(&self.dirs.network_record(), &record)?;
        }
        if namespace.created {
            guarded(Component::Network, "delete", || network.delete(self.id.as_str(), &namespace))?;
        }
        self.store().delete(&self.dirs.network_record())
    }

    /// Unmounts everything in the pod's directory, recorded or not.
    pub(crate) fn teardown_mounts(&self) -> Result<()> {
        let mounts = &self.sandbox.backends.mounts;
        let unbind_below = |dir: &Path| {
            let below = guarded(Component::Mounts, "below", || mounts.below(dir))?;
            below.iter().try_for_each(|target| guarded(Component::Mounts, "unbind", || mounts.unbind(target)))
        };
        let shared = self.dirs.shared_dir();
        unbind_below(&shared)?;
        guarded(Component::Mounts, "unpublish", || mounts.unpublish(&shared))?;
        unbind_below(self.dirs.run_dir())
    }

    /// Writes the network record.
    pub(crate) fn put_network(&self, record: &NetworkRecord) -> Result<()> {
        self.store().put(&self.dirs.network_record(), record)
    }

    /// Removes the directories of a container that the pod does not list.
    pub(crate) fn remove_container_dirs(&self, id: &ContainerId) -> Result<()> {
        let dirs = self.dirs.container(id);
        self.store().remove_known(dirs.run_dir(), Place::ContainerRun)?;
        self.store().remove_known(dirs.config_dir(), Place::ContainerConfig)
    }
}
