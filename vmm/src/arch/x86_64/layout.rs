//! Where everything lies in the guest's physical address space and on its I/O ports.
//!
//! ```text
//! 0x0000_0000  pointer to the tables of the MultiProcessor Specification
//! 0x0000_1000  boot page: PVH start info, module list, memory map, kernel command line
//! 0x0000_2000  boot_params ("zero page") and page tables, for the 64-bit Linux entry only
//! 0x0009_fc00  reserved
//! 0x000e_0000  ACPI tables, at 0x000f_0000 tables of the MultiProcessor Specification; reserved
//! 0x0010_0000  RAM: kernel where its image wants to be; initrd at the top
//! 0xc000_0000  end of low RAM, at most; devices from here to 4 GiB
//! 0xd000_0000    virtio-mmio windows, one page each
//! 0xfec0_0000    IOAPIC
//! 0xfee0_0000    local APICs
//! 0xfffb_d000    three pages that KVM needs on Intel
//! 0x1_0000_0000  RAM that found no place below; from the next multiple of 2 GiB on what can be plugged in
//! ```

/// Everything needed at the entry to the kernel that is not the kernel: one page.
pub const PVH_START_INFO: u64 = 0x1000;
/// PVH module list, one entry.
pub const PVH_MODULES: u64 = 0x1040;
/// PVH memory map.
pub const PVH_MEMMAP: u64 = 0x1080;
/// Entries that fit.
pub const PVH_MEMMAP_MAX: usize = 16;
/// GDT for the 64-bit Linux entry.
pub const GDT: u64 = 0x1780;
/// Kernel command line with its final zero.
pub const CMDLINE: u64 = 0x1800;
/// Linux on x86 takes no more than this (COMMAND_LINE_SIZE), the final zero included.
pub const CMDLINE_MAX: usize = 2048;

/// `boot_params`.
pub const ZERO_PAGE: u64 = 0x2000;
/// Page tables for the 64-bit Linux entry: the first GiB, mapped one to one.
pub const PML4: u64 = 0x3000;
/// Second level.
pub const PDPT: u64 = 0x4000;
/// Third level, with 2 MiB pages.
pub const PAGE_DIRECTORY: u64 = 0x5000;
/// What these page tables map.
pub const IDENTITY_MAPPED: u64 = 1 << 30;

/// End of RAM below the legacy hole.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables; the RSDP comes first.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Tables of the MultiProcessor Specification.
pub const MP_TABLES: u64 = 0xf_0000;
/// A second pointer to them, in the first place where Linux looks.
pub const MP_POINTER: u64 = 0;
/// End of all tables.
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// Where a kernel may lie at the lowest.
pub const HIGH_RAM: u64 = 0x10_0000;

/// RAM is interrupted from here ...
pub const MMIO_HOLE: u64 = 0xc000_0000;
/// ... to here.
pub const MMIO_HOLE_END: u64 = 1 << 32;

/// The first virtio-mmio window.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Size of one.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Register QueueNotify (VIRTIO 1.2, 4.2.2).
pub const VIRTIO_QUEUE_NOTIFY: u64 = 0x50;
/// Interrupt pin of the first virtio device.
pub const VIRTIO_GSI: u32 = 5;
/// Pins of the IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// Virtio devices a machine can have: a pin for each.
pub const MAX_VIRTIO_DEVICES: usize = (IOAPIC_PINS - VIRTIO_GSI) as usize;

/// IOAPIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// See KVM_SET_TSS_ADDR.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// 16550 serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its registers.
pub const SERIAL_PORT_SIZE: u16 = 8;
/// Its interrupt.
pub const SERIAL_GSI: u32 = 4;
/// Keyboard controller, only for the reset through it.
pub const I8042_PORT: u16 = 0x60;
/// Its registers.
pub const I8042_PORT_SIZE: u16 = 5;
/// Boot marks.
pub const MARK_PORT: u16 = 0xe9;
/// ACPI sleep control register (write) and sleep status register (read).
pub const SLEEP_PORT: u16 = 0x600;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x601;
/// Both.
pub const POWER_PORT_SIZE: u16 = 2;
/// What the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of power-off, as `\_S5` tells.
pub const SLEEP_TYPE_S5: u8 = 5;

/// The most vCPUs: APIC ids stay below 255, so that everything works without x2APIC routing.
pub const MAX_VCPUS: u32 = 254;
