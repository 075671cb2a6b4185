//! Devices of a container: its root disk, if it has one, and what was configured.

use crate::error::{Component, Error, Result};
use crate::pod::{guarded, OpenPod};
use crate::seam::{BlockDevice, RootDisk};
use crate::spec::{device_id, ContainerConfig, DeviceKind, HypervisorKind};
use crate::store::ContainerState;

/// The root disk of a container as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluggedRoot {
    /// Serial number.
    pub(crate) id: String,
    /// File system.
    pub(crate) fstype: String,
    /// Where the root directory lies in it.
    pub(crate) path: String,
}

impl OpenPod<'_> {
    /// Plugs the root file system in as a disk, if it is one and everybody can deal with that (P-200).
    pub(crate) fn plug_root(&mut self, index: usize) -> Result<Option<PluggedRoot>> {
        let Some(disk) = self.root_disk(index)? else { return Ok(None) };
        let id = device_id("drive", self.containers[index].id.as_str());
        let block = self.state.blocks.take();
        self.put_state()?;
        let state = ContainerState {
            drive: Some(id.clone()),
            block_index: Some(block),
            fstype: disk.fstype.clone(),
            ..self.containers[index].state.clone()
        };
        self.put_container(index, state)?;
        let read_only = self.containers[index].config.readonly_rootfs;
        self.plug_block(&BlockDevice { id: id.clone(), path: disk.device, read_only })?;
        Ok(Some(PluggedRoot { id, fstype: disk.fstype, path: disk.path.display().to_string() }))
    }

    fn root_disk(&self, index: usize) -> Result<Option<RootDisk>> {
        let seams = &self.live.seams;
        let able = seams.vm.capabilities().block_hotplug && seams.agent.capabilities().block_devices;
        if !able || self.config.hypervisor.disable_block {
            return Ok(None);
        }
        let rootfs = &self.containers[index].config.rootfs;
        guarded(Component::Mounts, "root-disk", || seams.mounts.root_disk(rootfs))
    }

    /// Takes a slot, on record, then plugs in.
    fn plug_block(&mut self, device: &BlockDevice) -> Result<()> {
        self.take_slot(&device.id)?;
        self.live.vm_call("plug-block", |vm| vm.plug_block(device))
    }

    fn take_slot(&mut self, id: &str) -> Result<()> {
        let Some(record) = self.live.record_mut() else { return Ok(()) };
        let mut outcome = Ok(());
        for bridge in &mut record.bridges {
            outcome = bridge.add(id).map(drop);
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
        self.put_vm_record()
    }

    /// Refuses devices that would have to be passed to the guest by a hypervisor that cannot. Generic ones never are.
    pub(crate) fn check_devices(&self, config: &ContainerConfig) -> Result<()> {
        let kind = self.config.hypervisor.kind;
        if kind == HypervisorKind::None {
            return Ok(());
        }
        let capabilities = self.live.seams.vm.capabilities();
        for device in config.devices.iter().filter_map(|device| device.resolve()) {
            let what = match device.kind {
                DeviceKind::Block if !capabilities.block_hotplug => "a block device",
                DeviceKind::Vfio if !capabilities.vfio => "a VFIO device",
                DeviceKind::Block | DeviceKind::Vfio | DeviceKind::Generic => continue,
            };
            return Err(Error::invalid(
                format!("container {}: device {}", config.id, device.info.container_path.display()),
                format!("is {what}, which hypervisor type {kind} cannot pass to the guest; leave it out"),
            ));
        }
        Ok(())
    }

    /// Attaches the configured devices that can be passed; each is on record before.
    pub(crate) fn plug_devices(&mut self, index: usize) -> Result<()> {
        let capabilities = self.live.seams.vm.capabilities();
        let mut devices = self.containers[index].devices.clone();
        if devices.0.is_empty() {
            return Ok(());
        }
        for (number, device) in devices.0.iter_mut().enumerate() {
            let owner = format!("{}/{number}", self.containers[index].id);
            match device.kind {
                DeviceKind::Block if capabilities.block_hotplug => {
                    device.vmm_id = Some(device_id("blk", &owner));
                    device.index = Some(self.state.blocks.take());
                }
                DeviceKind::Vfio if capabilities.vfio => device.vmm_id = Some(device_id("vfio", &owner)),
                DeviceKind::Block | DeviceKind::Vfio | DeviceKind::Generic => {}
            }
        }
        self.put_state()?;
        self.put_devices(index, devices.clone())?;
        for device in &devices.0 {
            let (Some(id), Some(path)) = (&device.vmm_id, &device.info.host_path) else { continue };
            if device.kind == DeviceKind::Vfio {
                self.take_slot(id)?;
                self.live.vm_call("plug-vfio", |vm| vm.plug_vfio(id, path))?;
            } else {
                self.plug_block(&BlockDevice { id: id.clone(), path: path.clone(), read_only: false })?;
            }
        }
        Ok(())
    }
}
