//! Giving back what a container or a pod holds on the host. Goes by the records and is idempotent, so it serves a stop,
//! a rollback, and the cleaning after a call that died half way alike.

use crate::backend::Namespace;
use crate::error::{Component, Result};
use crate::id::ContainerId;
use crate::logger;
use crate::network::Endpoint;
use crate::pod::{guarded, OpenPod};
use crate::process::ProcessIdentity;
use crate::store::{ContainerState, DevicesRecord, MountsRecord, NetworkRecord};

impl OpenPod<'_> {
    /// Kills a shim; nobody and the dead are fine.
    pub(crate) fn kill_shim(&self, process: ProcessIdentity) -> Result<()> {
        if !process.is_some() {
            return Ok(());
        }
        let (shims, timeout) = (&self.live.backends.shims, self.rt.options().kill_timeout);
        guarded(Component::Shim, "kill", || shims.kill(process, timeout))
    }

    /// Kills the shims of a container's execs and forgets them (P-126).
    pub(crate) fn teardown_execs(&self, index: usize) -> Result<()> {
        let dirs = &self.containers[index].dirs;
        for token in dirs.exec_tokens()? {
            match self.store().get(&dirs.exec_record(&token)) {
                Ok(Some(record)) => self.kill_shim(record.shim)?,
                Ok(None) => {}
                Err(e) => logger::warn!("pod {}: exec {token}: {}", self.id, e.chain()),
            }
        }
        self.store().remove_dir(&dirs.exec_dir())
    }

    /// Releases the host side of a container: binds, devices, root disk, block indices, vCPUs. The guest must be done
    /// with them.
    pub(crate) fn teardown_container(&mut self, index: usize) -> Result<()> {
        self.teardown_binds(index)?;
        self.teardown_devices(index)?;
        self.teardown_drive(index)?;
        Ok(())
    }

    fn teardown_binds(&mut self, index: usize) -> Result<()> {
        let mounts = self.live.backends.mounts.clone();
        let container = &self.containers[index];
        if container.mounts.0.is_empty() {
            return Ok(());
        }
        for bind in container.mounts.0.iter().rev() {
            guarded(Component::Mounts, "unbind", || mounts.unbind(&bind.target))?;
        }
        self.store().delete(&container.dirs.mounts_record())?;
        self.containers[index].mounts = MountsRecord::default();
        Ok(())
    }

    fn teardown_devices(&mut self, index: usize) -> Result<()> {
        let ids: Vec<String> = self.containers[index].devices.0.iter().filter_map(|d| d.vmm_id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids.iter().rev() {
            self.unplug(id)?;
        }
        let mut devices = self.containers[index].devices.clone();
        for device in &mut devices.0 {
            device.vmm_id = None;
            if let Some(index) = device.index.take() {
                self.state.blocks.free(index);
            }
        }
        self.put_state()?;
        self.put_devices(index, devices)
    }

    fn teardown_drive(&mut self, index: usize) -> Result<()> {
        let state = self.containers[index].state.clone();
        if let Some(id) = &state.drive {
            self.unplug(id)?;
        }
        if let Some(block) = state.block_index {
            self.state.blocks.free(block);
            self.put_state()?;
        }
        if state.drive.is_some() || state.block_index.is_some() {
            let next = ContainerState { drive: None, block_index: None, fstype: String::new(), ..state };
            self.put_container(index, next)?;
        }
        Ok(())
    }

    /// Takes a device out of the machine, if there is one, and off its bridge.
    fn unplug(&mut self, id: &str) -> Result<()> {
        if self.live.vm_alive() {
            self.live.vm_call("unplug", |vm| vm.unplug(id))?;
        }
        if let Some(record) = self.live.record_mut() {
            for bridge in &mut record.bridges {
                // Not there: a plug that never came to that.
                let _ = bridge.remove(id);
            }
            self.put_vm_record()?;
        }
        Ok(())
    }

    pub(crate) fn put_devices(&mut self, index: usize, devices: DevicesRecord) -> Result<()> {
        let container = &mut self.containers[index];
        self.rt.store().put(&container.dirs.devices_record(), &devices)?;
        container.devices = devices;
        Ok(())
    }

    /// Takes the network apart: every endpoint, and the namespace if it is ours (P-080, P-086, P-087). The VMM must be
    /// gone.
    pub(crate) fn teardown_network(&mut self) -> Result<()> {
        let Some(mut record) = self.store().get(&self.dirs.network_record())? else { return Ok(()) };
        let network = self.live.backends.network.clone();
        let namespace = Namespace { path: record.namespace.clone(), created: record.created };
        while let Some(endpoint) = record.endpoints.pop() {
            let endpoint: Endpoint = endpoint;
            guarded(Component::Network, "detach", || network.detach(&namespace, &endpoint))?;
            self.store().put(&self.dirs.network_record(), &record)?;
        }
        if namespace.created {
            guarded(Component::Network, "delete", || network.delete(self.id.as_str(), &namespace))?;
        }
        self.store().delete(&self.dirs.network_record())
    }

    /// Unmounts whatever is still mounted in the pod's directory, recorded or not.
    pub(crate) fn teardown_mounts(&self) -> Result<()> {
        let mounts = &self.live.backends.mounts;
        let below = guarded(Component::Mounts, "below", || mounts.below(self.dirs.run_dir()))?;
        for target in below {
            guarded(Component::Mounts, "unbind", || mounts.unbind(&target))?;
        }
        Ok(())
    }

    /// The network record as far as it is known.
    pub(crate) fn put_network(&self, record: &NetworkRecord) -> Result<()> {
        self.store().put(&self.dirs.network_record(), record)
    }

    /// Removes the directories of a container that the pod does not list.
    pub(crate) fn remove_container_dirs(&self, id: &ContainerId) -> Result<()> {
        let dirs = self.dirs.container(id);
        self.store().remove_dir(dirs.run_dir())?;
        self.store().remove_dir(dirs.config_dir())
    }
}
