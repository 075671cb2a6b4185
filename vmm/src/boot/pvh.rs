//! Data for a PVH entry: start info, memory map, module list (Xen: `arch-x86/hvm/start_info.h`).

use hutch_devices::GuestRam;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::linux64::BootInfo;
use crate::arch::x86_64::layout;

/// "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
/// Version 1 introduced the memory map.
const VERSION: u32 = 1;

/// Writes everything to its place in the boot page. Does not fail with memory of at least 2 MiB.
pub fn write(ram: &GuestRam, info: &BootInfo<'_>) -> Result<(), GuestMemoryError> {
    assert!(info.map.len() <= layout::PVH_MEMMAP_MAX, "the memory map has at most 5 entries");
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: info.initrd.is_some().into(),
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: info.rsdp.unwrap_or(0),
        memmap_paddr: layout::PVH_MEMMAP,
        memmap_entries: u32::try_from(info.map.len()).expect("the memory map has at most 5 entries"),
        ..Default::default()
    };
    ram.write_slice(start_info.as_slice(), GuestAddress(layout::PVH_START_INFO))?;
    if let Some(initrd) = info.initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
        ram.write_slice(module.as_slice(), GuestAddress(layout::PVH_MODULES))?;
    }
    let mut address = layout::PVH_MEMMAP;
    for entry in info.map {
        let entry = hvm_memmap_table_entry {
            addr: entry.range.start,
            size: entry.range.len,
            type_: entry.kind,
            ..Default::default()
        };
        ram.write_slice(entry.as_slice(), GuestAddress(address))?;
        address += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::memmap::{self, GuestRange};
    use crate::testing::ram;

    #[test]
    fn the_start_info_leads_to_everything_else() {
        let ram = ram(4);
        let map = memmap::map(4 << 20);
        let initrd = GuestRange { start: 0x30_0000, len: 0x1234 };
        let info = BootInfo { map: &map, initrd: Some(initrd), rsdp: Some(0xe_0000), cmdline_len: 0 };
        write(&ram, &info).expect("fits");
        let start: hvm_start_info = ram.read_obj(GuestAddress(layout::PVH_START_INFO)).expect("there");
        assert_eq!((start.magic, start.version, start.nr_modules), (0x336e_c578, 1, 1));
        assert_eq!((start.cmdline_paddr, start.rsdp_paddr), (layout::CMDLINE, 0xe_0000));
        let module: hvm_modlist_entry = ram.read_obj(GuestAddress(start.modlist_paddr)).expect("there");
        assert_eq!((module.paddr, module.size), (0x30_0000, 0x1234));
        for (index, entry) in map.iter().enumerate() {
            let address = start.memmap_paddr + (index * size_of::<hvm_memmap_table_entry>()) as u64;
            let found: hvm_memmap_table_entry = ram.read_obj(GuestAddress(address)).expect("there");
            assert_eq!((found.addr, found.size, found.type_), (entry.range.start, entry.range.len, entry.kind));
        }
        assert_eq!(start.memmap_entries as usize, map.len());
    }
}
