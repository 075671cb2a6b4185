//! Reads the tables back as a guest would.

use super::*;

const BASE: u64 = 0xe_0000;

struct Reader(Vec<u8>);

impl Reader {
    fn new(vcpus: u32, virtio: &[VirtioNode], serial: bool) -> Self {
        Self(tables(BASE, &Description { vcpus, virtio, serial }))
    }

    fn at(&self, address: u64, len: usize) -> &[u8] {
        let start = usize::try_from(address - BASE).expect("inside of the image");
        &self.0[start..start + len]
    }

    fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().expect("four bytes"))
    }

    fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.at(address, 8).try_into().expect("eight bytes"))
    }

    /// A whole table, its signature and checksum verified.
    fn table(&self, address: u64, signature: &[u8; 4]) -> &[u8] {
        assert_eq!(address % 16, 0);
        assert_eq!(self.at(address, 4), signature);
        let table = self.at(address, self.u32(address + 4) as usize);
        assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(signature));
        table
    }

    fn xsdt_entries(&self) -> Vec<u64> {
        assert_eq!(self.at(BASE, 8), b"RSD PTR ");
        assert_eq!(self.at(BASE, 16)[15], 2, "revision");
        assert_eq!(sum(self.at(BASE, 20)), 0, "checksum of ACPI 1.0's part");
        assert_eq!(sum(self.at(BASE, 36)), 0, "extended checksum");
        let xsdt = self.table(self.u64(BASE + 24), b"XSDT");
        xsdt[36..].chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().expect("whole entries"))).collect()
    }

    fn fadt(&self) -> u64 {
        self.xsdt_entries()[0]
    }

    fn dsdt(&self) -> &[u8] {
        self.table(self.u64(self.fadt() + 140), b"DSDT")
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn nodes(count: u32) -> Vec<VirtioNode> {
    (0..count).map(|i| VirtioNode { address: layout::VIRTIO_MMIO + u64::from(i) * 0x1000, gsi: 5 + i }).collect()
}

#[test]
fn every_table_is_reachable_from_the_rsdp_and_its_checksum_is_right() {
    let reader = Reader::new(4, &nodes(3), true);
    let entries = reader.xsdt_entries();
    assert_eq!(entries.len(), 2);
    reader.table(entries[0], b"FACP");
    reader.table(entries[1], b"APIC");
    reader.dsdt();
}

#[test]
fn the_fadt_describes_a_hardware_reduced_machine_that_can_reset_and_sleep() {
    let reader = Reader::new(1, &[], false);
    let fadt = reader.fadt();
    assert_eq!(reader.u32(fadt + 4), 276, "length of an ACPI 6 FADT");
    let flags = reader.u32(fadt + 112);
    assert_ne!(flags & 1 << 20, 0, "HW_REDUCED_ACPI");
    assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
    let gas = |port: u16| [&[1, 8, 0, 1][..], &u64::from(port).to_le_bytes()].concat();
    assert_eq!(reader.at(fadt + 116, 12), gas(layout::RESET_PORT));
    assert_eq!(reader.at(fadt + 128, 1), [layout::RESET_VALUE]);
    assert_eq!(reader.at(fadt + 244, 12), gas(layout::SLEEP_PORT), "sleep control");
    assert_eq!(reader.at(fadt + 256, 12), gas(layout::SLEEP_PORT), "sleep status");
    assert_eq!(reader.u32(fadt + 36), 0, "no FACS");
}

#[test]
fn the_madt_lists_each_vcpu_and_the_ioapic() {
    let reader = Reader::new(3, &[], false);
    let madt = reader.table(reader.xsdt_entries()[1], b"APIC");
    assert_eq!(madt[36..40], layout::LOCAL_APIC.to_le_bytes());
    assert_eq!(madt[40..44], [0; 4], "no PC-AT compatible PICs");
    let mut rest = &madt[44..];
    let mut ids = Vec::new();
    let mut ioapics = Vec::new();
    while let [kind, len, ..] = *rest {
        match kind {
            0 => ids.push((rest[3], u32::from_le_bytes(rest[4..8].try_into().expect("four bytes")))),
            1 => ioapics.push(u32::from_le_bytes(rest[4..8].try_into().expect("four bytes"))),
            other => panic!("unexpected structure {other}"),
        }
        rest = &rest[usize::from(len)..];
    }
    assert!(rest.is_empty());
    assert_eq!(ids, [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(ioapics, [layout::IOAPIC]);
}

#[test]
fn the_dsdt_holds_each_device_with_its_window_and_interrupt() {
    let reader = Reader::new(1, &nodes(2), false);
    let dsdt = reader.dsdt();
    assert!(contains(dsdt, b"LNRO0005"));
    for (name, address, gsi) in [(b"VR00", 0xd000_0000u32, 5u8), (b"VR01", 0xd000_1000, 6)] {
        assert!(contains(dsdt, name));
        assert!(contains(dsdt, &[&[0x86, 9, 0, 1][..], &address.to_le_bytes(), &0x1000u32.to_le_bytes()].concat()));
        assert!(contains(dsdt, &[0x89, 6, 0, 3, 1, gsi, 0, 0, 0]), "edge, high, exclusive, consumer");
    }
    assert!(contains(dsdt, b"_S5_"));
    assert!(!contains(dsdt, b"COM1"));
    assert!(contains(Reader::new(1, &[], true).dsdt(), b"COM1"));
}

#[test]
fn the_largest_machine_fits_into_the_space_reserved() {
    let image = Reader::new(layout::MAX_VCPUS, &nodes(layout::MAX_VIRTIO_DEVICES as u32), true).0;
    assert!(image.len() as u64 <= layout::MP_TABLES - layout::ACPI_TABLES, "{} bytes", image.len());
}

#[test]
fn a_small_machine_needs_one_page() {
    assert!(Reader::new(1, &nodes(5), false).0.len() <= 4096);
}
