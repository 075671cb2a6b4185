//! What a machine shall be. Plain data, checked by [`MachineConfig::check`] before anything is built.

use std::ffi::OsString;
use std::path::PathBuf;

use hutch_devices::virtio::mem::BLOCK_SIZE;
use serde::{Deserialize, Serialize};

use crate::arch::x86_64::{layout, mptable};

/// A virtual machine as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Name for logs.
    pub name: String,
    /// Number of vCPUs, 1 to 254.
    pub vcpus: u32,
    /// How many there may be later; less than there are at the start means as many.
    #[serde(default)]
    pub max_vcpus: u32,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// ELF `vmlinux` or bzImage.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Kernel parameters, put after the machine's own so that these win.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// How the kernel is entered.
    #[serde(default)]
    pub boot: BootProtocol,
    /// How kernel and initrd come into memory.
    #[serde(default)]
    pub loading: ImageLoading,
    /// How the kernel finds devices.
    #[serde(default)]
    pub discovery: DeviceDiscovery,
    /// The serial console.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Disks; the guest sees them in this order.
    #[serde(default)]
    pub blocks: Vec<BlockConfig>,
    /// Disks without an image, after the others: one can be put in while the guest runs.
    #[serde(default)]
    pub block_slots: u32,
    /// Network interfaces, in this order.
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// Directories of the host for the guest.
    #[serde(default)]
    pub shares: Vec<ShareConfig>,
    /// The socket device.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// Whether there is an entropy device.
    #[serde(default)]
    pub rng: bool,
    /// Goes ahead on a KVM that only emulates. Bare-metal test guests run there; Linux does not.
    #[serde(default)]
    pub allow_emulated: bool,
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Size in MiB, at least 2.
    pub size_mib: u64,
    /// What it is made of.
    #[serde(default)]
    pub backing: MemoryBacking,
    /// Asks the host for transparent huge pages. Faster, and takes memory in steps of 2 MiB.
    #[serde(default)]
    pub thp: bool,
    /// Takes all memory from the host before the start.
    #[serde(default)]
    pub prefault: bool,
    /// MiB that can be plugged in on top while the guest runs, by a virtio-mem device. None are at the start.
    #[serde(default)]
    pub pluggable_mib: u64,
    /// Plugs all of it in, unasked, when the guest marks that it is ready: a byte `A` to the port for boot marks.
    #[serde(default)]
    pub plug_at_mark: bool,
}

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBacking {
    /// Anonymous private memory.
    #[default]
    Anonymous,
    /// A memfd, mapped shared: other processes can be given access.
    Memfd,
    /// Reserved huge pages of the host.
    Hugetlb {
        /// Page size: 2 or 1024 MiB.
        page_mib: u64,
    },
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootProtocol {
    /// The 64-bit Linux entry, but PVH for an ELF image with such an entry that is not Linux.
    #[default]
    Auto,
    /// PVH, or an error.
    Pvh,
    /// The 64-bit Linux entry.
    Linux64,
}

/// How kernel and initrd come into guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageLoading {
    /// Copied, but what a guest hardly touches is mapped if the file can be leased: blocks of 2 MiB of which half or more is
    /// filler, and tables for stack traces where they are most of a block. Whoever changes the file while the machine
    /// lives waits until the guest has copies of the mapped pages.
    #[default]
    Auto,
    /// They are copied. What becomes of the files afterwards is of no importance.
    Copy,
    /// Their pages are mapped from the host's page cache, and shared between machines until the guest writes to them. A
    /// file on which no lease can be had must not be changed in place while the machine lives (replacing it by `rename`
    /// is fine): the guest would see it, and end with a host error if it is cut. With shared or huge-page memory they
    /// are copied.
    Map,
}

/// How the kernel finds its virtio-mmio devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceDiscovery {
    /// By ACPI tables. Works with every distribution's kernel.
    #[default]
    Acpi,
    /// By `virtio_mmio.device=` parameters, for kernels without ACPI but with CONFIG_X86_MPPARSE and
    /// CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES. Such a guest cannot power off, only reset; it has 11 devices at most.
    Cmdline,
}

/// The serial console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// Where the guest's output goes.
    #[serde(default)]
    pub output: ConsoleOutput,
    /// How much there is of it.
    #[serde(default)]
    pub level: ConsoleLevel,
}

/// Where console output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleOutput {
    /// No serial port at all. A guest's panic then looks like a reset.
    None,
    /// The last lines are kept in memory, for reports.
    #[default]
    Ring,
    /// The last lines are kept, and everything is appended to this file.
    File(PathBuf),
    /// The last lines are kept, and everything goes to this process's standard output.
    Stdout,
}

/// How much the guest's kernel says on the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleLevel {
    /// Critical messages and a panic only. The guest has no `ttyS0`: nothing is probed, nothing printed.
    #[default]
    Quiet,
    /// All kernel messages, and `ttyS0` as the guest's `/dev/console`.
    Verbose,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Name in logs and errors.
    pub id: String,
    /// Raw image file or block device of the host.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Serial number the guest can read, at most 20 bytes.
    #[serde(default)]
    pub serial: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Name in logs and errors.
    pub id: String,
    /// The host's end.
    pub tap: TapSource,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet without link-layer header, in bytes; the guest's default if there is none.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// A tap device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapSource {
    /// By name; created if it is not there.
    Name(String),
    /// An open descriptor of this process on `/dev/net/tun`, with its interface set. It is duplicated.
    Fd(i32),
}

/// A directory of the host for the guest, by virtio-fs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareConfig {
    /// Name in logs and errors.
    pub id: String,
    /// What the guest mounts it by, at most 36 bytes.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Shares this one file of the directory and nothing else of it.
    #[serde(default)]
    pub only: Option<OsString>,
}

/// The socket device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's address, at least 3. It has a meaning inside this machine only.
    pub guest_cid: u64,
}

/// A configuration that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No vCPU.
    #[error("a machine needs at least one vCPU; ask for 1 to {max}")]
    NoVcpus {
        /// The limit.
        max: u32,
    },
    /// Too many vCPUs.
    #[error("{asked} vCPUs are more than a machine can have; ask for 1 to {max}")]
    TooManyVcpus {
        /// What was asked for.
        asked: u32,
        /// The limit.
        max: u32,
    },
    /// Memory 0 or next to nothing.
    #[error("{asked_mib} MiB of memory are too little for any guest; ask for at least {min_mib} MiB")]
    TooLittleMemory {
        /// What was asked for.
        asked_mib: u64,
        /// The least.
        min_mib: u64,
    },
    /// No such huge pages.
    #[error("huge pages of {page_mib} MiB do not exist; use 2 or 1024")]
    HugePageSize {
        /// What was asked for.
        page_mib: u64,
    },
    /// Huge pages cannot be divided.
    #[error("{size_mib} MiB of memory are no multiple of the huge page size of {page_mib} MiB; round it")]
    HugePageMultiple {
        /// Memory size.
        size_mib: u64,
        /// Page size.
        page_mib: u64,
    },
    /// Not a number of whole blocks.
    #[error("{asked_mib} MiB of memory to plug in are no multiple of {block_mib} MiB; round it")]
    PluggableMultiple {
        /// What was asked for.
        asked_mib: u64,
        /// Size of a block.
        block_mib: u64,
    },
    /// Huge pages are reserved at the start, and so is what is taken beforehand.
    #[error("memory in huge pages, or taken beforehand, is not plugged in later; ask for all of it at the start")]
    PluggableBacking,
    /// More devices than interrupt pins.
    #[error("{asked} devices are more than the {max} a machine has interrupts for; remove some")]
    TooManyDevices {
        /// How many.
        asked: usize,
        /// The limit.
        max: usize,
    },
    /// Two devices with one name.
    #[error("two devices are called {id:?}; give each its own id")]
    DuplicateId {
        /// The name.
        id: String,
    },
    /// Reserved addresses.
    #[error("guest CID {cid} is reserved; use 3 to 4294967294")]
    GuestCid {
        /// What was asked for.
        cid: u64,
    },
}

/// The least memory: room for what lies below 1 MiB, and something above.
pub const MIN_MEMORY_MIB: u64 = 2;

impl MachineConfig {
    /// One vCPU and 128 MiB, no devices.
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            vcpus: 1,
            max_vcpus: 0,
            memory: MemoryConfig::anonymous(128),
            kernel: kernel.into(),
            initrd: None,
            cmdline: Vec::new(),
            boot: BootProtocol::Auto,
            loading: ImageLoading::Auto,
            discovery: DeviceDiscovery::Acpi,
            console: ConsoleConfig::default(),
            blocks: Vec::new(),
            block_slots: 0,
            nets: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            rng: false,
            allow_emulated: false,
        }
    }

    /// How images come into memory of the configured kind: over shared memory and huge pages nothing can be mapped.
    pub fn effective_loading(&self) -> ImageLoading {
        match self.memory.backing {
            MemoryBacking::Anonymous => self.loading,
            MemoryBacking::Memfd | MemoryBacking::Hugetlb { .. } => ImageLoading::Copy,
        }
    }

    /// How many vCPUs there may ever be.
    pub fn most_vcpus(&self) -> u32 {
        self.vcpus.max(self.max_vcpus)
    }

    /// Virtio devices altogether.
    pub fn device_count(&self) -> usize {
        self.blocks.len()
            + self.block_slots as usize
            + self.nets.len()
            + self.shares.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.rng)
            + usize::from(self.memory.pluggable_mib > 0)
    }

    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let max = layout::MAX_VCPUS;
        match (self.vcpus, self.most_vcpus()) {
            (0, _) => return Err(ConfigError::NoVcpus { max }),
            (_, asked) if asked > max => return Err(ConfigError::TooManyVcpus { asked, max }),
            _ => (),
        }
        self.memory.check()?;
        let asked = self.device_count();
        let max = match self.discovery {
            DeviceDiscovery::Acpi => layout::MAX_VIRTIO_DEVICES,
            DeviceDiscovery::Cmdline => (mptable::ISA_INTERRUPTS - layout::VIRTIO_GSI) as usize,
        };
        if asked > max {
            return Err(ConfigError::TooManyDevices { asked, max });
        }
        self.check_ids()?;
        match self.vsock {
            // 0 to 2 and VMADDR_CID_ANY have meanings of their own (VIRTIO 1.2, 5.10.4).
            Some(VsockConfig { guest_cid: cid }) if !(3..u64::from(u32::MAX)).contains(&cid) => {
                Err(ConfigError::GuestCid { cid })
            }
            _ => Ok(()),
        }
    }

    fn check_ids(&self) -> Result<(), ConfigError> {
        let blocks = self.blocks.iter().map(|block| &block.id);
        let nets = self.nets.iter().map(|net| &net.id);
        let shares = self.shares.iter().map(|share| &share.id);
        let slots: Vec<String> = (0..self.block_slots).map(slot_id).collect();
        let mut ids: Vec<&String> = blocks.chain(nets).chain(shares).chain(&slots).collect();
        ids.sort();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ConfigError::DuplicateId { id: pair[0].clone() }),
            None => Ok(()),
        }
    }
}

/// Name of a disk without an image.
pub(crate) fn slot_id(number: u32) -> String {
    format!("slot{number}")
}
/// What a guest that grows boots with, and some if its memory is no multiple of [`GROWTH_STEP_MIB`].
pub const GROWING_BOOT_MIB: u64 = 128;
/// Memory up to which a guest that could grow boots with all of it: plugging in takes about 10 ms before the first block,
/// so that with less a command would start later.
pub const GROWTH_THRESHOLD_MIB: u64 = 1536;
/// Linux adds memory in sections of this size.
pub const GROWTH_STEP_MIB: u64 = 128;

impl MemoryConfig {
    /// All of it at the start, in anonymous memory.
    pub fn anonymous(size_mib: u64) -> Self {
        let backing = MemoryBacking::Anonymous;
        Self { size_mib, backing, thp: false, prefault: false, pluggable_mib: 0, plug_at_mark: false }
    }

    /// Boots with a small part and has the rest plugged in later, if there is more than `threshold_mib` of it and it is
    /// of a kind that can be: a kernel takes time for each page that it finds at boot.
    pub fn grow_beyond(&mut self, threshold_mib: u64) {
        let fixed = matches!(self.backing, MemoryBacking::Hugetlb { .. }) || self.prefault;
        if fixed || self.size_mib <= threshold_mib.max(GROWING_BOOT_MIB) {
            return;
        }
        let later = (self.size_mib - GROWING_BOOT_MIB) / GROWTH_STEP_MIB * GROWTH_STEP_MIB;
        self.size_mib -= later;
        self.pluggable_mib += later;
    }

    fn check(&self) -> Result<(), ConfigError> {
        let size_mib = self.size_mib;
        if size_mib < MIN_MEMORY_MIB {
            return Err(ConfigError::TooLittleMemory { asked_mib: size_mib, min_mib: MIN_MEMORY_MIB });
        }
        if let MemoryBacking::Hugetlb { page_mib } = self.backing {
            if !matches!(page_mib, 2 | 1024) {
                return Err(ConfigError::HugePageSize { page_mib });
            }
            if !size_mib.is_multiple_of(page_mib) {
                return Err(ConfigError::HugePageMultiple { size_mib, page_mib });
            }
        }
        let block_mib = BLOCK_SIZE >> 20;
        match (self.pluggable_mib, self.backing) {
            (0, _) => Ok(()),
            (asked_mib, _) if !asked_mib.is_multiple_of(block_mib) => {
                Err(ConfigError::PluggableMultiple { asked_mib, block_mib })
            }
            (_, MemoryBacking::Hugetlb { .. }) => Err(ConfigError::PluggableBacking),
            _ if self.prefault => Err(ConfigError::PluggableBacking),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
