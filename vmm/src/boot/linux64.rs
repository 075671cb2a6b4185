//! Data for Linux' 64-bit entry: `boot_params`, a GDT, and page tables that map the first GiB one to one
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; zero-page.rst).

use hutch_devices::GuestRam;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use crate::arch::x86_64::memmap::{GuestRange, MapEntry};
use crate::arch::x86_64::{layout, regs};

/// The number for boot loaders without a number of their own.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;

/// Boot data that every entry protocol passes to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'a> {
    /// The memory map.
    pub map: &'a [MapEntry],
    /// Addresses of the initrd.
    pub initrd: Option<GuestRange>,
    /// Address of the ACPI tables.
    pub rsdp: Option<u64>,
    /// Length of the command line at [`layout::CMDLINE`], without the final zero.
    pub cmdline_len: usize,
}

/// Writes everything to its place. Does not fail with memory of at least 2 MiB.
pub fn write(ram: &GuestRam, info: &BootInfo<'_>, header: Option<&setup_header>) -> Result<(), GuestMemoryError> {
    let mut params = boot_params { hdr: header.copied().unwrap_or_default(), ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).expect("the command line lies below 1 MiB");
    params.hdr.cmdline_size = u32::try_from(info.cmdline_len).expect("a command line has at most 2 KiB");
    if let Some(initrd) = info.initrd {
        params.hdr.ramdisk_image = u32::try_from(initrd.start).expect("an initrd is placed below 4 GiB");
        params.hdr.ramdisk_size = u32::try_from(initrd.len).expect("an initrd is placed below 4 GiB");
    }
    params.acpi_rsdp_addr = info.rsdp.unwrap_or(0);
    for (slot, entry) in params.e820_table.iter_mut().zip(info.map) {
        *slot = boot_e820_entry { addr: entry.range.start, size: entry.range.len, type_: entry.kind };
    }
    params.e820_entries = u8::try_from(info.map.len()).expect("the memory map has at most 5 entries");
    ram.write_slice(params.as_slice(), GuestAddress(layout::ZERO_PAGE))?;

    let gdt: Vec<u8> = regs::gdt().iter().flat_map(|entry| entry.to_le_bytes()).collect();
    ram.write_slice(&gdt, GuestAddress(layout::GDT))?;
    page_tables(ram)
}

fn page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    ram.write_obj(layout::PDPT | PRESENT_WRITABLE, GuestAddress(layout::PML4))?;
    ram.write_obj(layout::PAGE_DIRECTORY | PRESENT_WRITABLE, GuestAddress(layout::PDPT))?;
    let pages: Vec<u8> =
        (0..512u64).flat_map(|page| (page << 21 | LARGE_PAGE | PRESENT_WRITABLE).to_le_bytes()).collect();
    ram.write_slice(&pages, GuestAddress(layout::PAGE_DIRECTORY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::memmap;
    use crate::testing::ram;

    #[test]
    fn boot_params_describe_memory_initrd_and_command_line() {
        let ram = ram(4);
        let map = memmap::map(5 << 30);
        let initrd = GuestRange { start: 0x30_0000, len: 0x1234 };
        let header = setup_header { version: 0x20f, pref_address: 0x100_0000, ..Default::default() };
        let info = BootInfo { map: &map, initrd: Some(initrd), rsdp: Some(0xe_0000), cmdline_len: 17 };
        write(&ram, &info, Some(&header)).expect("fits");
        let params: boot_params = ram.read_obj(GuestAddress(layout::ZERO_PAGE)).expect("there");
        let hdr = params.hdr;
        assert_eq!({ hdr.version }, 0x20f);
        assert_eq!(({ hdr.ramdisk_image }, { hdr.ramdisk_size }), (0x30_0000, 0x1234));
        assert_eq!(({ hdr.cmd_line_ptr }, { hdr.cmdline_size }), (0x1800, 17));
        assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
        assert_eq!(usize::from(params.e820_entries), map.len());
        let last = params.e820_table[map.len() - 1];
        assert_eq!(({ last.addr }, { last.size }, { last.type_ }), (4 << 30, 2 << 30, 1));
    }

    #[test]
    fn page_tables_map_the_first_gib_one_to_one() {
        let ram = ram(4);
        page_tables(&ram).expect("fits");
        let entry = |address: u64| ram.read_obj::<u64>(GuestAddress(address)).expect("there");
        for virt in [0u64, 0x100_0000, layout::IDENTITY_MAPPED - 1] {
            let second = entry(layout::PML4) & !0xfff;
            let third = entry(second) & !0xfff;
            let page = entry(third + (virt >> 21) * 8);
            assert_eq!(page & 0x83, 0x83);
            assert_eq!((page & !0x1f_ffff) | virt & 0x1f_ffff, virt);
        }
    }
}
