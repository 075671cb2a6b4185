//! Releasing the host's half of a container. Goes by the records and is idempotent: a stop, a rollback and the clean-up
//! after a call that died half way all use it.

use hutch_agent_proto::Request;

use crate::container::ContainerRef;
use crate::error::{Component, Result};
use crate::logger;
use crate::pod::guarded;
use crate::store::{ContainerState, DevicesRecord, MountsRecord, Place};

impl ContainerRef<'_, '_> {
    /// Releases shims, guest container, binds, devices and disk, newest first. The directories stay.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.teardown_execs()?;
        self.kill_shim()?;
        if self.pod.sandbox.vm_alive() && !self.pod.sandbox.agent_lost() {
            let request = Request::RemoveContainer { id: self.id.to_string(), force: true };
            let removed = self.pod.sandbox.send_unless_gone("remove-container", request);
            match removed.and_then(|()| self.unmount_disks()) {
                // A guest that does not answer cannot be waited for; the host's half is released all the same.
                Err(e) if !e.is_guest_lost() => return Err(e),
                _ => {}
            }
        }
        self.teardown()
    }

    /// Kills the shim of the init process.
    pub(crate) fn kill_shim(&self) -> Result<()> {
        self.pod.kill_shim(self.shim())
    }

    /// Kills the shims of the container's execs and forgets them (P-126).
    pub(crate) fn teardown_execs(&self) -> Result<()> {
        let store = self.pod.store();
        for token in self.dirs.exec_tokens()? {
            match store.get(&self.dirs.exec_record(&token)) {
                Ok(Some(record)) => self.pod.kill_shim(record.shim)?,
                Ok(None) => {}
                Err(e) => logger::warn!("pod {}: exec {token}: {}", self.pod.id, e.chain()),
            }
        }
        store.remove_known(&self.dirs.exec_dir(), Place::Execs)
    }

    /// Releases binds, devices, root disk and block indices. The guest must have stopped using them.
    pub(crate) fn teardown(&mut self) -> Result<()> {
        self.teardown_binds()?;
        self.teardown_devices()?;
        self.teardown_drive()
    }

    fn teardown_binds(&mut self) -> Result<()> {
        let mounts = self.pod.sandbox.backends.mounts.clone();
        if self.mounts.0.is_empty() {
            return Ok(());
        }
        for bind in self.mounts.0.iter().rev() {
            guarded(Component::Mounts, "unbind", || mounts.unbind(&bind.target))?;
        }
        self.pod.store().delete(&self.dirs.mounts_record())?;
        self.mounts = MountsRecord::default();
        Ok(())
    }

    fn teardown_devices(&mut self) -> Result<()> {
        let mut devices = self.devices.clone();
        let ids: Vec<String> = devices.0.iter().filter_map(|device| device.vmm_id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids.iter().rev() {
            self.pod.unplug(id)?;
        }
        for device in &mut devices.0 {
            device.vmm_id = None;
            if let Some(index) = device.index.take() {
                self.pod.state.blocks.free(index);
            }
        }
        self.pod.put_state()?;
        self.put_devices(devices)
    }

    fn teardown_drive(&mut self) -> Result<()> {
        let state = self.state.clone();
        if let Some(id) = &state.drive {
            self.pod.unplug(id)?;
        }
        if let Some(block) = state.block_index {
            self.pod.state.blocks.free(block);
            self.pod.put_state()?;
        }
        if state.drive.is_some() || state.block_index.is_some() {
            self.put_state(ContainerState { drive: None, block_index: None, fstype: String::new(), ..state })?;
        }
        Ok(())
    }

    /// Writes the devices record, and on success changes it in memory.
    pub(crate) fn put_devices(&mut self, devices: DevicesRecord) -> Result<()> {
        self.pod.store().put(&self.dirs.devices_record(), &devices)?;
        self.devices = devices;
        Ok(())
    }
}
