//! Devices of a container: its root disk, if it has one, and what was configured.
//!
//! A disk takes a drive slot of the machine. It is recorded before it is plugged in, so that the call after one that
//! was killed can take it out again: unmount it in the guest, unplug it, then delete the record.

use std::path::Path;

use hutch_agent_proto::{GuestMount, Request, GUEST_DISK_DIR, GUEST_VOLUME_DIR};

use crate::backend::{BlockDevice, RootDisk};
use crate::container::ContainerRef;
use crate::error::{Component, Error, Result};
use crate::pod::{guarded, OpenPod};
use crate::spec::oci::GuestBind;
use crate::spec::{device_id, BlockVolume, ContainerConfig, Device, DeviceKind, HypervisorKind};
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
    /// Drive slots that the machine needs: one for each disk of its containers, plus the configured number. A path that
    /// cannot be examined does not count; the container's preparation reports it.
    pub(crate) fn wanted_slots(&self) -> u32 {
        if self.refusal_of_disks().is_some() {
            return 0;
        }
        let is_disk = |path: &Path| self.sandbox.backends.mounts.root_disk(path).is_ok_and(|disk| disk.is_some());
        let disks = |container: &ContainerConfig| {
            let volumes = container.mounts.iter().filter(|mount| mount.is_block()).count();
            volumes + usize::from(is_disk(&container.rootfs))
        };
        let disks: usize = self.config.containers.iter().map(disks).sum();
        self.config.hypervisor.block_slots.saturating_add(u32::try_from(disks).unwrap_or(u32::MAX))
    }

    /// The disk at `path`, if it is a disk and the guest can get it.
    fn disk_at(&self, path: &Path) -> Result<Option<RootDisk>> {
        if self.refusal_of_disks().is_some() {
            return Ok(None);
        }
        let mounts = &self.sandbox.backends.mounts;
        guarded(Component::Mounts, "root-disk", || mounts.root_disk(path))
    }

    /// Why no container of this pod can have a disk; the three consents of P-200.
    pub(crate) fn refusal_of_disks(&self) -> Option<&'static str> {
        let backends = &self.sandbox.backends;
        match () {
            () if !backends.vm.capabilities().block_hotplug => Some("its machine takes no disks"),
            () if !backends.agent.capabilities().block_devices => Some("its guest cannot mount disks"),
            () if self.config.hypervisor.disable_block => Some("hypervisor.disable_block is set"),
            () => None,
        }
    }

    fn take_bridge_slot(&mut self, id: &str) -> Result<()> {
        let Some(record) = self.sandbox.record_mut() else { return Ok(()) };
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

    /// Refuses devices that this hypervisor cannot pass to the guest. Generic ones are never passed.
    pub(crate) fn check_devices(&self, config: &ContainerConfig) -> Result<()> {
        let kind = self.config.hypervisor.kind;
        if kind == HypervisorKind::None {
            return Ok(());
        }
        let capabilities = self.sandbox.backends.vm.capabilities();
        let nodes = self.sandbox.backends.agent.capabilities().device_nodes;
        for device in config.devices.iter().filter_map(|device| device.resolve()) {
            let (what, remedy) = match device.kind {
                DeviceKind::Block if !capabilities.block_hotplug || !nodes => {
                    ("a block device", "mount what is on it with a mount of type block, or leave it out")
                }
                DeviceKind::Vfio => ("a VFIO device", "leave it out"),
                DeviceKind::Block | DeviceKind::Generic => continue,
            };
            return Err(Error::invalid(
                format!("container {}: device {}", config.id, device.info.container_path.display()),
                format!("is {what}, which hypervisor type {kind} cannot pass to the guest; {remedy}"),
            ));
        }
        Ok(())
    }

    fn mount_disk(&mut self, id: &str, target: &str, fstype: &str, read_only: bool) -> Result<()> {
        let kind = if self.sandbox.backends.vm.capabilities().block_slots { "slot" } else { "serial" };
        let mount = GuestMount {
            source: format!("{kind}:{id}"),
            target: target.to_owned(),
            fstype: fstype.to_owned(),
            options: if read_only { vec!["ro".into()] } else { Vec::new() },
            in_root: false,
        };
        self.sandbox.send("mount", Request::Mount(mount))
    }
}

impl ContainerRef<'_, '_> {
    /// Plugs the root file system in as a disk, if it is one and machine, agent and configuration allow that (P-200).
    pub(crate) fn plug_root(&mut self) -> Result<Option<PluggedRoot>> {
        let rootfs = self.config.rootfs.clone();
        let Some(disk) = self.pod.disk_at(&rootfs)? else { return Ok(None) };
        let asked = self.config.rootfs_type.clone();
        let fstype = self.file_system("rootfs", "rootfs_type", &rootfs, asked, &disk)?;
        let id = device_id("drive", self.id.as_str());
        let block = self.pod.state.blocks.take();
        let state = ContainerState {
            drive: Some(id.clone()),
            block_index: Some(block),
            fstype: fstype.clone(),
            ..self.state.clone()
        };
        // Recorded for the container first, whose teardown gives it back, then for the pod.
        if let Err(error) = self.put_state(state) {
            self.pod.state.blocks.free(block);
            return Err(error);
        }
        self.pod.put_state()?;
        let read_only = self.config.readonly_rootfs;
        self.plug_block(&BlockDevice { id: id.clone(), path: disk.device, read_only })?;
        Ok(Some(PluggedRoot { id, fstype, path: disk.path.display().to_string() }))
    }

    fn file_system(&self, what: &str, field: &str, path: &Path, asked: String, disk: &RootDisk) -> Result<String> {
        match (asked.is_empty(), disk.fstype.is_empty()) {
            (false, _) => Ok(asked),
            (true, false) => Ok(disk.fstype.clone()),
            (true, true) => Err(Error::invalid(
                format!("container {}: {what} {}", self.id, path.display()),
                format!("holds no file system that is known here; make one (mkfs.ext4), or name its type with {field}"),
            )),
        }
    }

    /// Takes a slot, records that, then plugs the disk in.
    fn plug_block(&mut self, device: &BlockDevice) -> Result<()> {
        self.take_slot(device)?;
        self.pod.sandbox.vm_call("plug-block", |vm| vm.plug_block(device))
    }

    fn take_slot(&mut self, device: &BlockDevice) -> Result<()> {
        let container = self.id.to_string();
        let Some(record) = self.pod.sandbox.record_mut() else { return Ok(()) };
        let taken: usize = record.bridges.iter().map(|bridge| bridge.slots.len()).sum();
        if let Some(slots) = record.block_slots.filter(|slots| taken >= *slots as usize) {
            return Err(Error::invalid(
                format!("container {container}: disk {}", device.path.display()),
                format!(
                    "finds no free drive slot: all {slots} of the pod are taken; remove a container with a disk, or \
                     create the pod with a larger hypervisor.block_slots (--block-slots)"
                ),
            ));
        }
        self.pod.take_bridge_slot(&device.id)
    }

    /// Plugs in the configured block devices and the block volumes, after they are recorded.
    pub(crate) fn plug_devices(&mut self) -> Result<()> {
        let capabilities = self.pod.sandbox.backends.vm.capabilities();
        let mut devices = self.devices.clone();
        if devices.0.is_empty() {
            return Ok(());
        }
        for device in &mut devices.0 {
            if let Some(volume) = &mut device.volume {
                let path = device.info.host_path.clone().unwrap_or_default();
                self.find_volume(&path, volume)?;
            }
        }
        for (number, device) in devices.0.iter_mut().enumerate() {
            let owner = format!("{}/{number}", self.id);
            match device.kind {
                DeviceKind::Block if capabilities.block_hotplug => {
                    device.vmm_id = Some(device_id("blk", &owner));
                    device.index = Some(self.pod.state.blocks.take());
                }
                DeviceKind::Block | DeviceKind::Vfio | DeviceKind::Generic => {}
            }
        }
        if let Err(error) = self.put_devices(devices.clone()) {
            devices.0.iter().filter_map(|device| device.index).for_each(|index| self.pod.state.blocks.free(index));
            return Err(error);
        }
        self.pod.put_state()?;
        for device in &devices.0 {
            let (Some(id), Some(path)) = (&device.vmm_id, &device.info.host_path) else { continue };
            let read_only = device.volume.as_ref().is_some_and(|volume| volume.read_only);
            self.plug_block(&BlockDevice { id: id.clone(), path: path.clone(), read_only })?;
        }
        Ok(())
    }

    /// Checks that a block volume is a disk, and finds its file system.
    fn find_volume(&self, path: &Path, volume: &mut BlockVolume) -> Result<()> {
        let what = || format!("container {}: block volume {}", self.id, path.display());
        if let Some(refusal) = self.pod.refusal_of_disks() {
            return Err(Error::invalid(what(), format!("cannot be given to the pod: {refusal}")));
        }
        let Some(disk) = self.pod.disk_at(path)? else {
            return Err(Error::invalid(what(), "is neither a disk image nor a block device; use a mount of type bind"));
        };
        let asked = std::mem::take(&mut volume.fstype);
        volume.fstype = self.file_system("block volume", "the option fstype=NAME", path, asked, &disk)?;
        Ok(())
    }

    /// Mounts the root disk in the guest; returns the path of its root directory there.
    pub(crate) fn mount_root_disk(&mut self, root: &PluggedRoot) -> Result<String> {
        let target = root_disk_target(self.id.as_str());
        let read_only = self.config.readonly_rootfs;
        self.pod.mount_disk(&root.id, &target, &root.fstype, read_only)?;
        Ok(match root.path.trim_matches('/') {
            "" => target,
            path => format!("{target}/{path}"),
        })
    }

    /// Mounts the block volumes in the guest; returns the binds that the container needs for them.
    pub(crate) fn mount_block_volumes(&mut self) -> Result<Vec<GuestBind>> {
        let devices = self.devices.clone();
        let mut binds = Vec::new();
        for device in &devices.0 {
            let (Some(volume), Some(id)) = (&device.volume, &device.vmm_id) else { continue };
            let target = volume_target(self.id.as_str(), id);
            self.pod.mount_disk(id, &target, &volume.fstype, volume.read_only)?;
            let destination = device.info.container_path.to_string_lossy().into_owned();
            binds.push(GuestBind { destination, source: target });
        }
        Ok(binds)
    }

    /// Whether the guest may hold data of the container's disks that it has not written yet.
    pub(crate) fn may_hold_writes(&self) -> bool {
        let volume =
            |device: &Device| device.vmm_id.is_some() && device.volume.as_ref().is_some_and(|volume| !volume.read_only);
        (self.state.drive.is_some() && !self.config.readonly_rootfs) || self.devices.0.iter().any(volume)
    }

    /// Unmounts the container's disks in the guest, which writes cached data out. One that is not mounted is fine.
    pub(crate) fn unmount_disks(&mut self) -> Result<()> {
        let id = self.id.as_str();
        let volumes = self.devices.0.iter().rev().filter(|device| device.volume.is_some());
        let mut targets: Vec<String> =
            volumes.filter_map(|device| device.vmm_id.as_ref().map(|vmm_id| volume_target(id, vmm_id))).collect();
        if self.state.drive.is_some() {
            targets.push(root_disk_target(id));
        }
        for target in targets {
            self.pod.sandbox.sync_unless_gone("unmount", Request::Unmount { target })?;
        }
        Ok(())
    }
}

fn root_disk_target(container: &str) -> String {
    format!("{GUEST_DISK_DIR}/{container}")
}

fn volume_target(container: &str, device: &str) -> String {
    format!("{GUEST_VOLUME_DIR}/{container}/{device}")
}
