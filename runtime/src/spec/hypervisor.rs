//! Configuration of a pod's machine.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{need_absolute, HypervisorKind};
use crate::error::{Error, Result};

/// Default number of vCPUs.
pub const DEFAULT_VCPUS: u32 = 1;
/// Default memory in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 2048;
/// Most vCPUs that the machine monitor supports on this host.
pub(crate) const PLATFORM_MAX_VCPUS: u32 = 254;
/// Default number of hot-plug bridges.
const DEFAULT_BRIDGES: u32 = 1;
/// Most empty drive slots: a machine has at most 19 devices, and every pod needs 3 of them.
const MAX_BLOCK_SLOTS: u32 = 16;
/// The smallest memory in MiB in which a guest kernel and the agent start. Debian's kernel needs more.
pub const MIN_MEMORY_MIB: u64 = 48;

/// The way in which disks appear to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlockDriver {
    /// Each disk is a virtio device.
    #[default]
    #[serde(rename = "virtio-blk")]
    VirtioBlk,
    /// Disks of one virtio SCSI controller. Type `hutch` refuses it (P-186); only the no-op hypervisor takes it.
    #[serde(rename = "virtio-scsi")]
    VirtioScsi,
}

/// One parameter of the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelParameter {
    /// Not empty (P-182).
    pub key: String,
    /// Empty for a parameter without a value.
    #[serde(default)]
    pub value: String,
}

impl KernelParameter {
    /// The parameter in the form of the command line.
    pub fn text(&self) -> String {
        match self.value.as_str() {
            "" => self.key.clone(),
            value => format!("{}={value}", self.key),
        }
    }
}

/// Whether the process that holds a machine confines itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Jail {
    /// As far as the host's kernel can.
    #[default]
    On,
    /// Not at all, for debugging.
    Off,
}

impl Jail {
    /// Whether the process confines itself.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Configuration of the machine. Zero means the default; status shows the value in use (P-181).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HypervisorConfig {
    /// The machine monitor.
    #[serde(rename = "type")]
    pub kind: HypervisorKind,
    /// Path of the guest kernel; required.
    pub kernel: PathBuf,
    /// Root disk image; exclusive with `initrd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Initial RAM file system; exclusive with `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Firmware (P-190). Type `hutch` boots without it and refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Program of the machine monitor; absent: hutch itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<PathBuf>,
    /// Parameters at the end of the kernel's command line, so that they win over the defaults.
    pub kernel_parameters: Vec<KernelParameter>,
    /// Block device driver; type `hutch` supports only `virtio-blk`.
    pub block_driver: BlockDriver,
    /// vCPUs at boot.
    pub vcpus: u32,
    /// Most vCPUs after hot-plug.
    pub max_vcpus: u32,
    /// Memory at boot, in MiB.
    pub memory_mib: u64,
    /// Upper limit of memory in MiB. The machine grows with its containers' limits, up to this. 0: it does not grow.
    /// The kernel needs CONFIG_VIRTIO_MEM and must bring memory online by itself.
    pub max_memory_mib: u64,
    /// Number of hot-plug bridges.
    pub bridges: u32,
    /// Empty drive slots for disks of later containers, at most 16. Each disk of a container that exists at boot has a
    /// slot of its own beside these.
    pub block_slots: u32,
    /// Never passes a root file system to the guest as a block device.
    pub disable_block: bool,
    /// Makes the guest verbose.
    pub debug: bool,
    /// Touches all memory before the guest starts.
    pub memory_prealloc: bool,
    /// Uses huge pages for guest memory.
    pub huge_pages: bool,
    /// Locks guest memory, so that pages in use are never swapped out.
    pub mlock: bool,
    /// Whether the VMM process and the shims confine themselves.
    pub jail: Jail,
}

impl HypervisorConfig {
    /// Checks the configuration and fills in the defaults (P-181).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the field.
    pub fn complete(mut self) -> Result<Self> {
        if self.kernel.as_os_str().is_empty() {
            return Err(Error::invalid("hypervisor.kernel", "is empty; give the path of a guest kernel"));
        }
        match (&self.image, &self.initrd) {
            (None, None) => return Err(Error::invalid("hypervisor", "has neither image nor initrd; give one")),
            (Some(_), Some(_)) => return Err(Error::invalid("hypervisor", "has both image and initrd; give one")),
            _ => {}
        }
        let paths = [Some(&self.kernel), self.image.as_ref(), self.initrd.as_ref(), self.firmware.as_ref()];
        for path in paths.into_iter().flatten().chain(&self.vmm) {
            need_absolute("hypervisor path", path)?;
        }
        self.refuse_unsupported()?;
        if let Some(bad) = self.kernel_parameters.iter().find(|p| p.key.is_empty()) {
            let what = format!("hypervisor.kernel_parameters with value {:?}", bad.value);
            return Err(Error::invalid(what, "has an empty key"));
        }
        let max = |asked: u32| if asked == 0 { PLATFORM_MAX_VCPUS } else { asked.min(PLATFORM_MAX_VCPUS) };
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        self.max_vcpus = max(self.max_vcpus);
        self.vcpus = or(self.vcpus, DEFAULT_VCPUS);
        self.bridges = or(self.bridges, DEFAULT_BRIDGES);
        if self.memory_mib == 0 {
            self.memory_mib = DEFAULT_MEMORY_MIB;
        }
        if self.memory_mib < MIN_MEMORY_MIB {
            let what = format!("hypervisor.memory_mib {}", self.memory_mib);
            return Err(Error::invalid(what, format!("is too little for a guest; give at least {MIN_MEMORY_MIB}")));
        }
        if self.block_slots > MAX_BLOCK_SLOTS {
            let what = format!("hypervisor.block_slots {}", self.block_slots);
            return Err(Error::invalid(
                what,
                format!("is more than a machine supports; give at most {MAX_BLOCK_SLOTS}"),
            ));
        }
        if self.max_memory_mib != 0 && self.max_memory_mib < self.memory_mib {
            let what = format!("hypervisor.max_memory_mib {}", self.max_memory_mib);
            return Err(Error::invalid(what, format!("is less than the {} MiB at boot", self.memory_mib)));
        }
        if self.max_memory_mib != 0 && (self.huge_pages || self.memory_prealloc) {
            let what = format!("hypervisor.max_memory_mib {}", self.max_memory_mib);
            return Err(Error::invalid(
                what,
                "cannot be combined with huge_pages or memory_prealloc; leave one of them out",
            ));
        }
        if self.vcpus > self.max_vcpus {
            let what = format!("hypervisor.vcpus {}", self.vcpus);
            return Err(Error::invalid(what, format!("is more than the maximum of {}", self.max_vcpus)));
        }
        Ok(self)
    }

    /// Refuses settings that this type of hypervisor would ignore.
    fn refuse_unsupported(&self) -> Result<()> {
        if self.kind != HypervisorKind::Hutch {
            return Ok(());
        }
        if let Some(firmware) = &self.firmware {
            return Err(Error::invalid(
                format!("hypervisor.firmware {}", firmware.display()),
                "is not supported: hypervisor type hutch boots the kernel without firmware; leave it out",
            ));
        }
        if self.block_driver != BlockDriver::VirtioBlk {
            return Err(Error::invalid(
                "hypervisor.block_driver virtio-scsi",
                "is not supported: disks of hypervisor type hutch are virtio-blk; leave it out",
            ));
        }
        Ok(())
    }
}
