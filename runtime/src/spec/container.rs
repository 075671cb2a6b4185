//! Configuration of one container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    need_absolute, oci, BlockVolume, Command, Device, DeviceInfo, DeviceKind, HookSpec, Resources, Seccomp,
    SeccompProfile,
};
use crate::error::{Error, Result};
use crate::id::{ContainerId, VolumeName};

/// The configuration of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerConfig {
    /// Unique in the pod.
    pub id: String,
    /// Root file system on the host: a directory, or a disk image or block device, which the guest gets as a disk.
    pub rootfs: PathBuf,
    /// File system of a `rootfs` that is a disk, such as `ext4`; empty: the file system found on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_type: String,
    /// The container cannot write to its root file system.
    pub readonly_rootfs: bool,
    /// The command of the container.
    pub command: Command,
    /// Unique keys in reverse-domain form. [`super::oci::CONFIG_KEY`] may hold the whole OCI `config.json`.
    pub annotations: BTreeMap<String, String>,
    /// Mounts in the container, in order.
    pub mounts: Vec<MountSpec>,
    /// Host devices.
    pub devices: Vec<DeviceInfo>,
    /// CPU, memory and process limits.
    pub resources: Resources,
    /// The system calls that the container's processes may make: a profile in the form of the OCI runtime
    /// specification, or the absolute path of a file with one. Absent: all calls, unless the OCI configuration in the
    /// annotations has a profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
}

/// A mount inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MountSpec {
    /// Host path of a bind mount, disk image or block device; name of a volume; else the source that the file system
    /// expects.
    pub source: String,
    /// Absolute path in the container.
    pub destination: String,
    /// `bind`, `tmpfs`, …; `volume`: a named volume, created at its first use; `block`: the file system on a disk image
    /// or block device.
    #[serde(rename = "type")]
    pub kind: String,
    /// `ro`, `nosuid`, `size=64m`, …; `fstype=NAME` for type `block`.
    pub options: Vec<String>,
    /// Neither the container nor the guest can write to it.
    pub read_only: bool,
    /// Path at which the host has bound the source for the guest. The runtime fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<PathBuf>,
}

impl ContainerConfig {
    /// Checks all fields that can be checked without the host's files.
    ///
    /// # Errors
    /// [`Error::NeedContainerId`] for an empty id, else [`Error::InvalidConfig`] with container and field.
    pub fn validate(&self) -> Result<()> {
        ContainerId::new(&self.id)?;
        self.check_fields().map_err(|e| in_container(&self.id, e))
    }

    fn check_fields(&self) -> Result<()> {
        if self.rootfs.as_os_str().is_empty() {
            return Err(Error::invalid("rootfs", "is empty; give the absolute path of the root file system"));
        }
        need_absolute("rootfs", &self.rootfs)?;
        check_fstype("rootfs_type", &self.rootfs_type)?;
        self.command.validate()?;
        if let Some(key) = self.annotations.keys().find(|key| key.is_empty()) {
            return Err(Error::invalid(format!("annotation {key:?}"), "has an empty key"));
        }
        for mount in &self.mounts {
            mount.validate()?;
        }
        for device in &self.devices {
            device.validate()?;
        }
        if let Some(seccomp) = &self.seccomp {
            seccomp.validate()?;
        }
        // The call that needs all of the annotation checks that it is JSON.
        let config = self.annotations.get(oci::CONFIG_KEY).and_then(|text| serde_json::from_str(text).ok());
        config.as_ref().map(SeccompProfile::of_oci).transpose()?;
        self.resources.validate()
    }

    /// The startContainer hooks of the container's OCI configuration, if it has one.
    pub(crate) fn start_container_hooks(&self) -> Vec<HookSpec> {
        let oci = self.annotations.get(oci::CONFIG_KEY).and_then(|text| oci::OciConfig::parse(text).ok());
        let hooks = oci.and_then(|oci| oci.hooks);
        hooks.map(|hooks| oci::hook_specs(hooks.start_container())).unwrap_or_default()
    }

    /// Reads the files that the configuration names, so that a later start of the container gives the same result.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with container and file.
    pub fn load_files(&mut self) -> Result<()> {
        match &mut self.seccomp {
            Some(seccomp) => seccomp.load().map_err(|e| in_container(&self.id, e)),
            None => Ok(()),
        }
    }
}

fn in_container(id: &str, error: Error) -> Error {
    match error {
        Error::InvalidConfig { what, reason } => Error::invalid(format!("container {id}: {what}"), reason),
        other => other,
    }
}

impl ContainerConfig {
    /// The devices and block volumes that the machine must have for the container.
    pub(crate) fn machine_devices(&self) -> Vec<Device> {
        let devices = self.devices.iter().filter_map(DeviceInfo::resolve);
        let volumes = self.mounts.iter().filter(|mount| mount.is_block()).map(|mount| Device {
            kind: DeviceKind::Block,
            info: DeviceInfo {
                host_path: Some(mount.source.clone().into()),
                container_path: mount.destination.clone().into(),
                kind: "b".into(),
                ..DeviceInfo::default()
            },
            vmm_id: None,
            index: None,
            volume: Some(BlockVolume { fstype: mount.fstype().to_owned(), read_only: mount.is_read_only() }),
        });
        devices.chain(volumes).collect()
    }
}

/// Checks the name of a file system; an empty one is fine.
fn check_fstype(what: &str, fstype: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if fstype.len() > 64 || !fstype.chars().all(plain) {
        return Err(Error::invalid(
            format!("{what} {fstype:?}"),
            "is not the name of a file system; give for example ext4",
        ));
    }
    Ok(())
}

impl MountSpec {
    /// Whether it is a named volume.
    pub fn is_volume(&self) -> bool {
        self.kind == "volume"
    }

    /// Whether it is the file system of a disk image or block device.
    pub fn is_block(&self) -> bool {
        self.kind == "block"
    }

    /// Value of the option `fstype`.
    fn fstype(&self) -> &str {
        self.options.iter().find_map(|option| option.strip_prefix("fstype=")).unwrap_or_default()
    }

    /// Whether it mounts a path of the host.
    pub fn is_bind(&self) -> bool {
        self.kind == "bind" || (self.kind.is_empty() || self.kind == "none") && self.has_bind_option()
    }

    fn has_bind_option(&self) -> bool {
        self.options.iter().any(|option| option == "bind" || option == "rbind")
    }

    /// Whether it is read-only.
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.options.iter().any(|option| option == "ro" || option == "rro")
    }

    fn validate(&self) -> Result<()> {
        if !self.destination.starts_with('/') {
            return Err(Error::invalid(
                format!("mount destination {:?}", self.destination),
                "must be an absolute path",
            ));
        }
        if self.is_bind() && !self.source.starts_with('/') {
            let what = format!("source {:?} of the bind mount on {}", self.source, self.destination);
            return Err(Error::invalid(what, "must be an absolute path of the host"));
        }
        if self.is_block() {
            let what = format!("source {:?} of the block volume on {}", self.source, self.destination);
            need_absolute(&what, self.source.as_ref())?;
            check_fstype("mount option fstype", self.fstype())?;
            if let Some(option) = self.options.iter().find(|option| !is_block_option(option)) {
                return Err(Error::invalid(
                    format!("option {option:?} of the block volume on {}", self.destination),
                    "is not known; use ro, rw or fstype=NAME",
                ));
            }
        }
        if self.is_volume() {
            VolumeName::new(&self.source)?;
        }
        Ok(())
    }
}

fn is_block_option(option: &str) -> bool {
    matches!(option, "ro" | "rw") || option.starts_with("fstype=")
}
