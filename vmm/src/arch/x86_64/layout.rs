//! The guest's physical address space and its I/O ports.
//!
//! ```text
//! 0x0000_0000  pointer to the tables of the MultiProcessor Specification
//! 0x0000_1000  boot page: PVH start info, module list, memory map, kernel command line
//! 0x0000_2000  boot_params ("zero page") and page tables, for the 64-bit Linux entry only
//! 0x0009_fc00  reserved
//! 0x000e_0000  ACPI tables, at 0x000f_0000 tables of the MultiProcessor Specification; reserved
//! 0x0010_0000  RAM: kernel at its image's address; initrd at the top
//! 0xc000_0000  end of low RAM, at most; devices from here to 4 GiB
//! 0xd000_0000    virtio-mmio windows, one page each
//! 0xfec0_0000    IOAPIC
//! 0xfee0_0000    local APICs
//! 0xfffb_d000    three pages that KVM needs on Intel
//! 0x1_0000_0000  RAM that does not fit below; from the next multiple of 2 GiB on, pluggable memory
//! ```

/// PVH start info, at the beginning of the boot page: that page has all data for the entry to the kernel.
pub const PVH_START_INFO: u64 = 0x1000;
/// PVH module list, one entry.
pub const PVH_MODULES: u64 = 0x1040;
/// PVH memory map.
pub const PVH_MEMMAP: u64 = 0x1080;
/// Number of entries that fit into the PVH memory map.
pub const PVH_MEMMAP_MAX: usize = 16;
/// GDT for the 64-bit Linux entry.
pub const GDT: u64 = 0x1780;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x1800;
/// Longest command line of Linux on x86 (COMMAND_LINE_SIZE), including the NUL.
pub const CMDLINE_MAX: usize = 2048;

/// `boot_params`, the "zero page".
pub const ZERO_PAGE: u64 = 0x2000;
/// Page tables for the 64-bit Linux entry, first level. They map the first GiB one to one.
pub const PML4: u64 = 0x3000;
/// Page tables, second level.
pub const PDPT: u64 = 0x4000;
/// Page tables, third level, with 2 MiB pages.
pub const PAGE_DIRECTORY: u64 = 0x5000;
/// Bytes that these page tables map, from address 0.
pub const IDENTITY_MAPPED: u64 = 1 << 30;

/// End of RAM below the legacy hole.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables; the RSDP comes first.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Tables of the MultiProcessor Specification.
pub const MP_TABLES: u64 = 0xf_0000;
/// A second pointer to them, at the address that Linux searches first.
pub const MP_POINTER: u64 = 0;
/// End of all tables below 1 MiB.
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// Lowest address of a kernel.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Start of the hole in RAM for devices.
pub const MMIO_HOLE: u64 = 0xc000_0000;
/// End of the hole in RAM for devices.
pub const MMIO_HOLE_END: u64 = 1 << 32;

/// The first virtio-mmio window.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Size of a virtio-mmio window.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Register QueueNotify (VIRTIO 1.2, 4.2.2).
pub const VIRTIO_QUEUE_NOTIFY: u64 = 0x50;
/// Interrupt pin of the first virtio device.
pub const VIRTIO_GSI: u32 = 5;
/// Number of pins of the IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// Upper limit of virtio devices: each has a pin of its own.
pub const MAX_VIRTIO_DEVICES: usize = (IOAPIC_PINS - VIRTIO_GSI) as usize;

/// IOAPIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages for KVM_SET_TSS_ADDR.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// First I/O port of the 16550 serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of I/O ports of the serial port.
pub const SERIAL_PORT_SIZE: u16 = 8;
/// IOAPIC pin of the serial port.
pub const SERIAL_GSI: u32 = 4;
/// First I/O port of the keyboard controller, which only serves resets.
pub const I8042_PORT: u16 = 0x60;
/// Number of I/O ports of the keyboard controller.
pub const I8042_PORT_SIZE: u16 = 5;
/// I/O port for boot marks.
pub const MARK_PORT: u16 = 0xe9;
/// ACPI sleep control register (write) and sleep status register (read).
pub const SLEEP_PORT: u16 = 0x600;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x601;
/// Number of I/O ports of the sleep and reset registers.
pub const POWER_PORT_SIZE: u16 = 2;
/// Value that the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of power-off, as in `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Upper limit of vCPUs: APIC ids stay below 255, so interrupts need no x2APIC routing.
pub const MAX_VCPUS: u32 = 254;
