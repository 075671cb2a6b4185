//! The machine's virtio devices, from configuration to bus. The guest sees them in this order.

#![expect(unsafe_code, reason = "duplicates a tap descriptor that the configuration gives as a number")]
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

use std::error::Error;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use hutch_devices::virtio::block::{self, Block, BlockSlot};
use hutch_devices::virtio::fs::{Fs, FsCache, FsDeviceConfig, FsError, FsPrivileges};
use hutch_devices::virtio::mem::{Mem, MemHandle};
use hutch_devices::virtio::net::{self, Net, Tap};
use hutch_devices::virtio::rng::Rng;
use hutch_devices::virtio::vsock::{self, Vsock, VsockHandle};
use hutch_devices::GuestRam;

use crate::attach::{AttachError, Devices};
use crate::config::{slot_id, BlockConfig, MachineConfig, NetConfig, ShareCache, ShareConfig, TapSource};
use crate::hv::Vm;
use crate::pluggable_ram::PluggableRam;

/// Handles through which the machine's owner reaches its devices.
#[derive(Default)]
pub(crate) struct Handles {
    /// Connects to the guest's sockets.
    pub vsock: Option<VsockHandle>,
    /// Disks whose image may change, in order of their number.
    pub slots: Vec<BlockSlot>,
    /// Plugs memory in and out.
    pub memory: Option<MemHandle>,
}

/// Adds every device that `config` asks for.
pub(crate) fn add_all(
    devices: &mut Devices,
    vm: &dyn Vm,
    ram: &GuestRam,
    config: &MachineConfig,
) -> Result<Handles, AttachError> {
    let mut handles = Handles::default();
    if let Some(config) = config.vsock {
        let (device, handle) = Vsock::new(vsock::VsockDeviceConfig { guest_cid: config.guest_cid });
        devices.add(vm, ram, Box::new(device))?;
        handles.vsock = Some(handle);
    }
    for config in &config.shares {
        let device = share(config).map_err(|error| failed(&config.id, error))?;
        devices.add(vm, ram, Box::new(device))?;
    }
    for config in &config.blocks {
        let device = block(config).map_err(|error| failed(&config.id, error))?;
        devices.add(vm, ram, Box::new(device))?;
    }
    for number in 0..config.block_slots {
        let (device, slot) = Block::slot(slot_id(number));
        devices.add(vm, ram, Box::new(device))?;
        handles.slots.push(slot);
    }
    for config in &config.nets {
        devices.add(vm, ram, Box::new(net(config)?))?;
    }
    if config.rng {
        devices.add(vm, ram, Box::new(Rng::new("rng")))?;
    }
    if let Some(map) = ram.pluggable() {
        let (device, handle) = Mem::new("mem", map.clone(), Arc::new(PluggableRam(ram.clone())));
        devices.add(vm, ram, Box::new(device))?;
        handles.memory = Some(handle);
    }
    Ok(handles)
}

fn failed(id: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> AttachError {
    AttachError::Device { id: id.into(), source: source.into() }
}

fn block(config: &BlockConfig) -> Result<Block, block::BlockError> {
    let BlockConfig { id, path, read_only, serial } = config.clone();
    Block::new(block::BlockDeviceConfig { id, path, read_only, serial })
}

fn share(config: &ShareConfig) -> Result<Fs, FsError> {
    let ShareConfig { id, tag, path, read_only, only, policy } = config.clone();
    Fs::new(FsDeviceConfig {
        id,
        tag,
        path,
        read_only,
        single_file: only,
        cache: match policy.cache {
            ShareCache::None => FsCache::Never,
            ShareCache::Auto => FsCache::Auto,
            ShareCache::Always => FsCache::Always,
        },
        privileges: if policy.strip_privileges { FsPrivileges::Strip } else { FsPrivileges::Keep },
        trusted_xattrs: policy.trusted_xattrs,
    })
}

fn net(config: &NetConfig) -> Result<Net, AttachError> {
    let NetConfig { id, tap, mac, mtu } = config.clone();
    let tap = match &tap {
        TapSource::Name(name) => Tap::open(Some(name)),
        TapSource::Fd(fd) => Tap::from_fd(duplicate(*fd).map_err(|error| failed(&id, error))?),
    };
    let tap = tap.map_err(|error| failed(&id, error))?;
    Net::new(net::NetDeviceConfig { id: id.clone(), tap, mac, mtu }).map_err(|error| failed(&id, error))
}

fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: creates a new descriptor, or fails if `fd` is not open.
    match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new and has no other owner.
        new => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
    }
}
