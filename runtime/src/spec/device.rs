//! Host devices for containers, and the indices and slots of hot-plugged ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Hot-plug slots of a bridge (P-188).
pub(super) const BRIDGE_SLOTS: u8 = 30;
/// Longest device id: what a virtio-blk serial number can hold (VIRTIO 1.2, 5.2.6).
const MAX_DEVICE_ID: usize = 20;

/// A host device for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceInfo {
    /// Path on the host; absent: found by type and numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<PathBuf>,
    /// Path in the container.
    pub container_path: PathBuf,
    /// `b` block, `c` or `u` character, `p` fifo.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a device reaches the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The IOMMU group is passed through.
    Vfio,
    /// As a virtio disk.
    Block,
    /// The guest does not get it.
    Generic,
}

/// A container's device as recorded: type tag and body. An unknown tag in a record is an error (P-050).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The way in which the device reaches the guest.
    #[serde(rename = "type")]
    pub kind: DeviceKind,
    /// The configured device, with `host_path` filled in.
    pub info: DeviceInfo,
    /// Id of the device in the VMM, once an attach has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_id: Option<String>,
    /// Block index of a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The guest mounts the device's file system for the container, which gets no device node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<BlockVolume>,
}

/// The file system on a block device of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockVolume {
    /// Name of the file system; empty: found on the device.
    pub fstype: String,
    /// The guest cannot write to it.
    pub read_only: bool,
}

impl DeviceInfo {
    /// Checks the fields.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an unknown type or an empty path.
    pub fn validate(&self) -> Result<()> {
        if self.container_path.as_os_str().is_empty() {
            return Err(Error::invalid("device path", "is empty"));
        }
        let what = format!("device {}", self.container_path.display());
        if !matches!(self.kind.as_str(), "b" | "c" | "u" | "p") {
            return Err(Error::invalid(what, format!("has the type {:?}; known are b, c, u and p", self.kind)));
        }
        if !self.container_path.is_absolute() {
            return Err(Error::invalid(what, "must have an absolute path"));
        }
        Ok(())
    }

    /// Finds the device on the host, through sysfs by type and numbers, else by the container's path, and decides how
    /// to pass it. `None` for an unsupported type, which is ignored.
    pub fn resolve(&self) -> Option<Device> {
        let class = match self.kind.as_str() {
            "b" => "block",
            "c" | "u" => "char",
            _ => return None,
        };
        let found = || {
            let text =
                std::fs::read_to_string(format!("/sys/dev/{class}/{}:{}/uevent", self.major, self.minor)).ok()?;
            let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
            Some(PathBuf::from("/dev").join(name))
        };
        let host_path = self.host_path.clone().or_else(found).unwrap_or_else(|| self.container_path.clone());
        let group = host_path.file_name().is_some_and(|name| name != "vfio");
        let kind = match () {
            () if host_path.starts_with("/dev/vfio") && group => DeviceKind::Vfio,
            () if class == "block" => DeviceKind::Block,
            () => DeviceKind::Generic,
        };
        Some(Device {
            kind,
            info: DeviceInfo { host_path: Some(host_path), ..self.clone() },
            vmm_id: None,
            index: None,
            volume: None,
        })
    }
}

/// Id of a device for the VMM: short enough for a disk's serial number. A digest of the whole id replaces its tail, so
/// that ids with a common prefix stay different (P-187).
pub(crate) fn device_id(prefix: &str, owner: &str) -> String {
    let digest = Sha256::digest(owner.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let keep = MAX_DEVICE_ID.saturating_sub(prefix.len() + 1).min(hex.len());
    format!("{prefix}-{}", &hex[..keep])
}

/// The block indices of a pod in use: taken on attach, freed on detach and on a failed attach (P-185).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIndices(BTreeSet<u32>);

impl BlockIndices {
    /// Takes the lowest free index.
    pub fn take(&mut self) -> u32 {
        let free = (0..).find(|index| !self.0.contains(index)).unwrap_or(u32::MAX);
        self.0.insert(free);
        free
    }

    /// Frees `index`; a free one stays free.
    pub fn free(&mut self, index: u32) {
        self.0.remove(&index);
    }

    /// The set in which exactly these indices are in use.
    pub fn of(indices: impl IntoIterator<Item = u32>) -> Self {
        Self(indices.into_iter().collect())
    }

    /// Number of indices in use.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no index is in use.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A hot-plug bridge and its slots (P-188). Records keep it; machines of type `hutch` have no bridges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Unique in the pod.
    pub id: String,
    /// Device ids by slot, from 1.
    pub slots: BTreeMap<u8, String>,
}

impl Bridge {
    /// A bridge whose slots are free.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), slots: BTreeMap::new() }
    }

    /// Takes the first free slot for `device`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the bridge is full or has the device already.
    pub fn add(&mut self, device: &str) -> Result<u8> {
        if self.slots.values().any(|id| id == device) {
            return Err(Error::invalid(format!("device {device}"), format!("is on bridge {} already", self.id)));
        }
        let slot = (1..=BRIDGE_SLOTS).find(|slot| !self.slots.contains_key(slot)).ok_or_else(|| {
            Error::invalid(format!("device {device}"), format!("bridge {} has no free slot left", self.id))
        })?;
        self.slots.insert(slot, device.to_owned());
        Ok(slot)
    }

    /// Frees the slot of `device`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if the bridge does not have the device.
    pub fn remove(&mut self, device: &str) -> Result<u8> {
        let slot = self
            .slots
            .iter()
            .find(|(_, id)| *id == device)
            .map(|(slot, _)| *slot)
            .ok_or_else(|| Error::invalid(format!("device {device}"), format!("is not on bridge {}", self.id)))?;
        self.slots.remove(&slot);
        Ok(slot)
    }
}
