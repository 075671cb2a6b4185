//! The configuration of a machine: plain data, which [`MachineConfig::check`] checks before anything is built.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use hutch_devices::virtio::mem::BLOCK_SIZE;
use hutch_devices::worker::STOP_TIMEOUT;
use serde::{Deserialize, Serialize};

use crate::arch::x86_64::{layout, mptable};
use crate::confine::Confinement;

/// The configuration of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Name for logs.
    pub name: String,
    /// Number of vCPUs, 1 to 254.
    pub vcpus: u32,
    /// Upper limit of vCPUs that can be added later. A value below `vcpus` means `vcpus`.
    #[serde(default)]
    pub max_vcpus: u32,
    /// Guest memory: size, backing, pluggable part.
    pub memory: MemoryConfig,
    /// Path of the kernel: an ELF `vmlinux` or a bzImage.
    pub kernel: PathBuf,
    /// Path of the initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Kernel parameters. They come after the machine's own, so they win.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// Protocol by which the kernel is entered.
    #[serde(default)]
    pub boot: BootProtocol,
    /// Copying or mapping of kernel and initrd.
    #[serde(default)]
    pub loading: ImageLoading,
    /// Mechanism by which the kernel finds devices.
    #[serde(default)]
    pub discovery: DeviceDiscovery,
    /// Output and level of the serial console.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Disks, in the order in which the guest sees them.
    #[serde(default)]
    pub blocks: Vec<BlockConfig>,
    /// Number of disks without an image, after `blocks`: an image can be inserted while the guest runs.
    #[serde(default)]
    pub block_slots: u32,
    /// Network interfaces, in the order in which the guest sees them.
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// Directories of the host that the guest can mount.
    #[serde(default)]
    pub shares: Vec<ShareConfig>,
    /// The socket device, if any.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// Whether the machine has an entropy device.
    #[serde(default)]
    pub rng: bool,
    /// Also builds on a KVM that only emulates. Bare-metal test guests run there; Linux does not.
    #[serde(default)]
    pub allow_emulated: bool,
    /// Times after which the machine's owner gets an error instead of waiting longer.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The threads that the machine confines before the guest runs.
    #[serde(default)]
    pub confinement: Confinement,
    /// The kernel may destroy the VM in the background after the process has exited, without the exit waiting for that: for a
    /// process that ends with its machine.
    #[serde(default)]
    pub deferred_teardown: bool,
}

/// Times after which the machine's owner gets an error instead of waiting longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// For all vCPUs to leave the guest, at a pause and at the end. A vCPU needs microseconds, unless it waits for a
    /// device that it has reset: the device waits for the host up to [`STOP_TIMEOUT`].
    pub vcpu: Duration,
    /// For the reader of standard output to take the rest of the console's output, when the guest has ended.
    pub console: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { vcpu: STOP_TIMEOUT + Duration::from_secs(5), console: Duration::from_secs(1) }
    }
}

/// The guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// Size in MiB, at least 2.
    pub size_mib: u64,
    /// Kind of host memory behind it.
    #[serde(default)]
    pub backing: MemoryBacking,
    /// Asks the host for transparent huge pages: faster, but takes memory in steps of 2 MiB.
    #[serde(default)]
    pub thp: bool,
    /// Takes all memory from the host before the start.
    #[serde(default)]
    pub prefault: bool,
    /// MiB that a virtio-mem device can plug in on top while the guest runs. None of it is plugged in at the start. If
    /// kernel and initrd need more than `size_mib`, the machine boots with as much more and this is less:
    /// [`Machine::boot_memory_mib`](crate::Machine::boot_memory_mib).
    #[serde(default)]
    pub pluggable_mib: u64,
    /// Plugs in all pluggable memory when the guest marks that it is ready: a byte `A` to the port for boot marks.
    #[serde(default)]
    pub plug_at_mark: bool,
}

/// The kind of host memory behind guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBacking {
    /// Anonymous private memory.
    #[default]
    Anonymous,
    /// A memfd, mapped shared: other processes can get access to it.
    Memfd,
    /// Huge pages that the host has reserved.
    Hugetlb {
        /// Page size: 2 or 1024 MiB.
        page_mib: u64,
    },
}

/// The protocol by which the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootProtocol {
    /// The 64-bit Linux entry; PVH for an ELF image that has a PVH entry and is not Linux.
    #[default]
    Auto,
    /// PVH. An image without a PVH entry is an error.
    Pvh,
    /// The 64-bit entry of Linux' boot protocol.
    Linux64,
}

/// The way in which kernel and initrd come into guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageLoading {
    /// Copies the file, but maps the parts that a guest hardly touches if the file can be leased: blocks of 2 MiB that are
    /// at least half filler, and tables for stack traces where they fill most of a block. A process that opens the file
    /// for writing while the machine lives waits until the guest has copies of the mapped pages.
    #[default]
    Auto,
    /// Copies the files. Later changes of the files have no effect.
    Copy,
    /// Maps the files' pages from the host's page cache. Machines share a page until the guest writes to it. A file that
    /// cannot be leased must not be changed in place while the machine lives (replacing it by `rename` is fine): the
    /// guest would see the change, and end with a host error if the file is cut. With shared or huge-page memory the
    /// files are copied.
    Map,
}

/// The mechanism by which the kernel finds its virtio-mmio devices.
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

/// Output and level of the serial console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// Destination of the guest's output.
    #[serde(default)]
    pub output: ConsoleOutput,
    /// Amount of output.
    #[serde(default)]
    pub level: ConsoleLevel,
}

/// The destination of console output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleOutput {
    /// No serial port at all. A guest's panic then looks like a reset.
    None,
    /// Keeps the last lines in memory, for reports.
    #[default]
    Ring,
    /// Keeps the last lines, and appends everything to this file.
    File(PathBuf),
    /// Keeps the last lines, and writes everything to this process's standard output.
    Stdout,
}

/// The amount of output of the guest's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleLevel {
    /// Critical messages and panics only. The guest has no `ttyS0`, so it probes nothing and prints nothing.
    #[default]
    Quiet,
    /// All kernel messages, and `ttyS0` as the guest's `/dev/console`.
    Verbose,
}

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Name in logs and errors.
    pub id: String,
    /// Raw image file or block device of the host.
    pub path: PathBuf,
    /// Whether the guest must not write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Serial number that the guest can read, at most 20 bytes.
    #[serde(default)]
    pub serial: Option<String>,
}

/// A network interface of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Name in logs and errors.
    pub id: String,
    /// The tap device at the host's end.
    pub tap: TapSource,
    /// Hardware address of the guest's interface.
    pub mac: [u8; 6],
    /// Largest packet without link-layer header, in bytes. `None`: the guest's default.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// A tap device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapSource {
    /// A device by name; created if it does not exist.
    Name(String),
    /// An open descriptor of this process on `/dev/net/tun`, with its interface set. hutch duplicates it.
    Fd(i32),
}

/// A directory of the host that the guest can mount by virtio-fs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareConfig {
    /// Name in logs and errors.
    pub id: String,
    /// Tag by which the guest mounts it, at most 36 bytes.
    pub tag: String,
    /// Path of the directory on the host.
    pub path: PathBuf,
    /// Whether the guest must not write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Shares only this file of the directory.
    #[serde(default)]
    pub only: Option<OsString>,
    /// Caching by the guest, and the power that its files have on the host.
    #[serde(default)]
    pub policy: SharePolicy,
}

/// The policy of a share, beyond reading and writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharePolicy {
    /// Caching by the guest's kernel.
    #[serde(default)]
    pub cache: ShareCache,
    /// Drops set-id bits of files that the guest makes or changes, and refuses `security.*` attributes: for directories
    /// of the host that others use too.
    #[serde(default)]
    pub strip_privileges: bool,
    /// Lets the guest use `trusted.*` attributes.
    #[serde(default)]
    pub trusted_xattrs: bool,
}

/// Caching of a share by the guest's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareCache {
    /// Nothing: every look-up, read and write goes to the host.
    None,
    /// Names and attributes for a second, contents until a file is opened again.
    #[default]
    Auto,
    /// Everything, without a time limit: for directories that only this guest changes.
    Always,
}

/// The virtio socket device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's context id, at least 3. Only this machine uses it.
    pub guest_cid: u64,
}

/// Why a configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The machine would have no vCPU.
    #[error("a machine needs at least one vCPU; ask for 1 to {max}")]
    NoVcpus {
        /// Upper limit of vCPUs.
        max: u32,
    },
    /// More vCPUs than hutch supports.
    #[error("{asked} vCPUs are more than a machine can have; ask for 1 to {max}")]
    TooManyVcpus {
        /// vCPUs in the configuration.
        asked: u32,
        /// Upper limit of vCPUs.
        max: u32,
    },
    /// Less memory than any guest needs.
    #[error("{asked_mib} MiB of memory are too little for any guest; ask for at least {min_mib} MiB")]
    TooLittleMemory {
        /// MiB in the configuration.
        asked_mib: u64,
        /// Lower limit in MiB.
        min_mib: u64,
    },
    /// x86-64 has no huge pages of this size.
    #[error("huge pages of {page_mib} MiB do not exist; use 2 or 1024")]
    HugePageSize {
        /// Page size in the configuration, in MiB.
        page_mib: u64,
    },
    /// The size of memory is not a multiple of the huge page size.
    #[error("{size_mib} MiB of memory are not a multiple of the huge page size of {page_mib} MiB; round it")]
    HugePageMultiple {
        /// Memory size in MiB.
        size_mib: u64,
        /// Page size in MiB.
        page_mib: u64,
    },
    /// The pluggable memory is not a multiple of the device's block size.
    #[error("{asked_mib} MiB of memory to plug in are not a multiple of {block_mib} MiB; round it")]
    PluggableMultiple {
        /// Pluggable MiB in the configuration.
        asked_mib: u64,
        /// Block size of the device, in MiB.
        block_mib: u64,
    },
    /// Huge pages and prefaulted memory are taken at the start, so they cannot be pluggable.
    #[error("memory in huge pages, or prefaulted, cannot be plugged in later; ask for all of it at the start")]
    PluggableBacking,
    /// More devices than interrupt pins.
    #[error("{asked} devices are more than the {max} a machine has interrupts for; remove some")]
    TooManyDevices {
        /// Devices in the configuration.
        asked: usize,
        /// Upper limit for this kind of discovery.
        max: usize,
    },
    /// Two devices have the same id.
    #[error("two devices are called {id:?}; give each its own id")]
    DuplicateId {
        /// The repeated id.
        id: String,
    },
    /// The guest's context id is reserved.
    #[error("guest CID {cid} is reserved; use 3 to 4294967294")]
    GuestCid {
        /// Context id in the configuration.
        cid: u64,
    },
}

/// Lower limit of guest memory: room for the data below 1 MiB, and something above.
pub const MIN_MEMORY_MIB: u64 = 2;

impl MachineConfig {
    /// A machine with one vCPU, 128 MiB and no devices.
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
            timeouts: Timeouts::default(),
            confinement: Confinement::default(),
            deferred_teardown: false,
        }
    }

    /// The loading that the configured memory allows: files cannot be mapped over shared memory and huge pages.
    pub fn effective_loading(&self) -> ImageLoading {
        match self.memory.backing {
            MemoryBacking::Anonymous => self.loading,
            MemoryBacking::Memfd | MemoryBacking::Hugetlb { .. } => ImageLoading::Copy,
        }
    }

    /// Upper limit of vCPUs over the machine's life.
    pub fn most_vcpus(&self) -> u32 {
        self.vcpus.max(self.max_vcpus)
    }

    /// Number of virtio devices, slots included.
    pub fn device_count(&self) -> usize {
        self.blocks.len()
            + self.block_slots as usize
            + self.nets.len()
            + self.shares.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.rng)
            + usize::from(self.memory.pluggable_mib > 0)
    }

    /// Checks everything that does not depend on the host, and reports the first error.
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

/// Id of a disk without an image.
pub(crate) fn slot_id(number: u32) -> String {
    format!("slot{number}")
}

/// Memory with which a growing guest boots, plus the remainder if its memory is not a multiple of [`GROWTH_STEP_MIB`].
pub const GROWING_BOOT_MIB: u64 = 128;
/// Up to this size a guest boots with all of its memory: plugging in takes about 10 ms before the first block, so with a
/// lower threshold a command would start later.
pub const GROWTH_THRESHOLD_MIB: u64 = 1536;
/// Linux adds memory in sections of this size.
pub const GROWTH_STEP_MIB: u64 = 128;

impl MemoryConfig {
    /// Anonymous memory, all of it present at the start.
    pub fn anonymous(size_mib: u64) -> Self {
        let backing = MemoryBacking::Anonymous;
        Self { size_mib, backing, thp: false, prefault: false, pluggable_mib: 0, plug_at_mark: false }
    }

    /// Makes most of the memory pluggable if it is larger than `threshold_mib` and of a kind that can be plugged in: a
    /// kernel takes time for each page that it finds at boot.
    pub fn grow_beyond(&mut self, threshold_mib: u64) {
        let fixed = matches!(self.backing, MemoryBacking::Hugetlb { .. }) || self.prefault;
        if fixed || self.size_mib <= threshold_mib.max(GROWING_BOOT_MIB) {
            return;
        }
        let later = (self.size_mib - GROWING_BOOT_MIB) / GROWTH_STEP_MIB * GROWTH_STEP_MIB;
        self.size_mib -= later;
        self.pluggable_mib += later;
    }

    /// Moves pluggable memory to the boot, in steps of [`GROWTH_STEP_MIB`], until the boot has `needs_mib` or nothing
    /// pluggable is left. The sum stays. A machine without pluggable memory does not change.
    pub(crate) fn boot_with(&mut self, needs_mib: u64) {
        let missing = needs_mib.saturating_sub(self.size_mib);
        let more = missing.next_multiple_of(GROWTH_STEP_MIB).min(self.pluggable_mib);
        self.size_mib += more;
        self.pluggable_mib -= more;
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
