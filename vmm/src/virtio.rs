//! The machine's virtio devices, from configuration to bus. Their order is the guest's order.

use std::error::Error;

use hutch_devices::virtio::block::{self, Block};
use hutch_devices::virtio::rng::Rng;
use hutch_devices::virtio::vsock::{self, Vsock, VsockHandle};
use hutch_devices::GuestRam;

use crate::attach::{AttachError, Devices};
use crate::config::{BlockConfig, MachineConfig};
use crate::hv::Vm;

/// Adds every device that `config` asks for.
///
/// # Errors
/// The first that cannot be.
pub(crate) fn add_all(
    devices: &mut Devices,
    vm: &dyn Vm,
    ram: &GuestRam,
    config: &MachineConfig,
) -> Result<Option<VsockHandle>, AttachError> {
    let mut handle = None;
    if let Some(config) = config.vsock {
        let (device, its) = Vsock::new(vsock::VsockConfig { guest_cid: config.guest_cid });
        devices.add(vm, ram, Box::new(device))?;
        handle = Some(its);
    }
    for config in &config.shares {
        return Err(failed(&config.id, "file sharing is not there yet"));
    }
    for config in &config.blocks {
        let device = block(config).map_err(|error| failed(&config.id, error))?;
        devices.add(vm, ram, Box::new(device))?;
    }
    for config in &config.nets {
        return Err(failed(&config.id, "networking is not there yet"));
    }
    if config.rng {
        devices.add(vm, ram, Box::new(Rng::new("rng")))?;
    }
    Ok(handle)
}

fn failed(id: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> AttachError {
    AttachError::Device { id: id.into(), source: source.into() }
}

fn block(config: &BlockConfig) -> Result<Block, block::BlockError> {
    let BlockConfig { id, path, read_only, serial } = config.clone();
    Block::new(block::BlockConfig { id, path, read_only, serial })
}
