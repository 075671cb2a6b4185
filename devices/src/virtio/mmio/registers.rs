//! The register window of virtio over MMIO, version 2 (VIRTIO 1.2, 4.2.2, table 4.1).

/// Length of a device's window in bytes.
pub const WINDOW: u64 = 0x1000;
/// Offset of configuration space.
pub const CONFIG: u64 = 0x100;

/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// The non-legacy layout.
pub const VERSION: u32 = 2;
/// "HTCH", little-endian.
pub const VENDOR: u32 = 0x4843_5448;

/// Offset of [`MAGIC`].
pub const MAGIC_VALUE: u64 = 0x000;
/// Offset of [`VERSION`].
pub const DEVICE_VERSION: u64 = 0x004;
/// The device id (section 5).
pub const DEVICE_ID: u64 = 0x008;
/// Offset of [`VENDOR`].
pub const VENDOR_ID: u64 = 0x00c;
/// The selected 32 bits of the offered features.
pub const DEVICE_FEATURES: u64 = 0x010;
/// Selects the half in [`DEVICE_FEATURES`].
pub const DEVICE_FEATURES_SEL: u64 = 0x014;
/// The selected 32 bits of the driver's features.
pub const DRIVER_FEATURES: u64 = 0x020;
/// Selects the half in [`DRIVER_FEATURES`].
pub const DRIVER_FEATURES_SEL: u64 = 0x024;
/// Selects the queue of the queue registers.
pub const QUEUE_SEL: u64 = 0x030;
/// Largest size of the queue.
pub const QUEUE_NUM_MAX: u64 = 0x034;
/// Size of the queue, set by the driver.
pub const QUEUE_NUM: u64 = 0x038;
/// 1: the driver has set up the queue.
pub const QUEUE_READY: u64 = 0x044;
/// The index of a queue in which the driver has made buffers available.
pub const QUEUE_NOTIFY: u64 = 0x050;
/// The reasons of interrupts, as bits.
pub const INTERRUPT_STATUS: u64 = 0x060;
/// The reasons that the driver has handled, as bits.
pub const INTERRUPT_ACK: u64 = 0x064;
/// Device status; 0 resets.
pub const STATUS: u64 = 0x070;
/// Descriptor table, low half.
pub const QUEUE_DESC_LOW: u64 = 0x080;
/// Descriptor table, high half.
pub const QUEUE_DESC_HIGH: u64 = 0x084;
/// Available ring, low half.
pub const QUEUE_DRIVER_LOW: u64 = 0x090;
/// Available ring, high half.
pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
/// Used ring, low half.
pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
/// Used ring, high half.
pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
/// Length of the selected shared memory region, low half: all ones, since there is none.
pub const SHM_LEN_LOW: u64 = 0x0b0;
/// Length of the selected shared memory region, high half.
pub const SHM_LEN_HIGH: u64 = 0x0b4;
/// Base of the selected shared memory region, low half: all ones, since there is none.
pub const SHM_BASE_LOW: u64 = 0x0b8;
/// Base of the selected shared memory region, high half.
pub const SHM_BASE_HIGH: u64 = 0x0bc;
/// Number of changes of configuration space, modulo 2^32.
pub const CONFIG_GENERATION: u64 = 0x0fc;

/// Device status bits (VIRTIO 1.2, 2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for the device.
    pub const DRIVER: u32 = 2;
    /// The driver is ready: the device is live.
    pub const DRIVER_OK: u32 = 4;
    /// The features are negotiated.
    pub const FEATURES_OK: u32 = 8;
    /// Set by the device, which works again only after a reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver has given up.
    pub const FAILED: u32 = 128;
}
