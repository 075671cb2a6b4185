//! Tables of the MultiProcessor Specification 1.4, for kernels without ACPI: processors, the IOAPIC, and the pins of the
//! ISA interrupts.
//!
//! Every machine has them. Linux searches three places for the pointer before it knows whether it will need it, in steps
//! of 16 bytes, each with a mapping of its own: several milliseconds if there is no pointer. A copy of the pointer in
//! the first place ends the search at its first step. A kernel that has found processors by ACPI then ignores the
//! tables.

use super::layout;

/// Bytes of the floating pointer structure (section 4.1), the first table.
pub const POINTER_SIZE: usize = 16;
/// Bytes of the configuration table header (section 4.2).
const HEADER_SIZE: usize = 44;
/// Revision 1.4, of both the pointer and the table.
const REVISION: u8 = 4;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types (table 4-10).
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// ISA's interrupts, each on the IOAPIC pin of the same number.
pub const ISA_INTERRUPTS: u32 = 16;
const ISA_BUS: u8 = 0;
const APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;

/// Encodes the tables for address `base`. A kernel searches multiples of 16 between 0xf0000 and 1 MiB.
pub fn tables(base: u64, vcpus: u32) -> Vec<u8> {
    let io_apic = u8::try_from(vcpus).expect("the number of vCPUs is below the number of xAPIC ids");
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..io_apic {
        // Usable, and the first one is the boot processor. Kernels read its features from CPUID.
        let flags = 1 | u8::from(id == 0) << 1;
        add(&[&[PROCESSOR, id, APIC_VERSION, flags][..], &[0; 16]].concat());
    }
    add(&[&[BUS, ISA_BUS][..], b"ISA   "].concat());
    add(&[&[IO_APIC, io_apic, IO_APIC_VERSION, 1][..], &layout::IOAPIC.to_le_bytes()].concat());
    for pin in 0..ISA_INTERRUPTS as u8 {
        // Polarity and trigger mode as on ISA: high, edge.
        add(&[IO_INTERRUPT, VECTORED, 0, 0, ISA_BUS, pin, io_apic, pin]);
    }
    // Local inputs: the PIC's on LINT0 of the boot processor, NMI on LINT1 of all.
    add(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, 0xff, 1]);
    [pointer(base), header(&entries, count), entries].concat()
}

fn pointer(base: u64) -> Vec<u8> {
    let table = u32::try_from(base).expect("below 1 MiB") + POINTER_SIZE as u32;
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table.to_le_bytes());
    // Length in units of 16 bytes, revision, checksum, features: a table is present, and there is no PIC mode.
    bytes.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    bytes[10] = complement(&bytes);
    bytes
}

fn header(entries: &[u8], count: u16) -> Vec<u8> {
    let len = u16::try_from(HEADER_SIZE + entries.len()).expect("254 processors take 5 KiB");
    let mut bytes = b"PCMP".to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend([REVISION, 0]);
    bytes.extend(b"HUTCH   HUTCH VM    ");
    bytes.extend([0; 6]); // no OEM table
    bytes.extend(count.to_le_bytes());
    bytes.extend(layout::LOCAL_APIC.to_le_bytes());
    bytes.extend([0; 4]); // no extended table
    bytes[7] = complement(&[&bytes, entries].concat());
    bytes
}

/// The checksum byte: it makes the sum of all bytes 0.
fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn the_pointer_leads_to_a_table_that_counts_its_entries() {
        let tables = tables(0xf_0000, 3);
        assert_eq!(&tables[..4], b"_MP_");
        assert_eq!(sum(&tables[..16]), 0);
        assert_eq!(u32::from_le_bytes(tables[4..8].try_into().expect("four bytes")), 0xf_0010);
        let table = &tables[16..];
        assert_eq!(&table[..4], b"PCMP");
        assert_eq!(sum(table), 0);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        let (mut rest, mut kinds) = (&table[HEADER_SIZE..], Vec::new());
        while let [kind, ..] = *rest {
            kinds.push(kind);
            rest = &rest[if kind == PROCESSOR { 20 } else { 8 }..];
        }
        assert_eq!(usize::from(u16::from_le_bytes([table[34], table[35]])), kinds.len());
        let of = |wanted: u8| kinds.iter().filter(|kind| **kind == wanted).count();
        assert_eq!([of(0), of(1), of(2), of(3), of(4)], [3, 1, 1, 16, 2]);
    }

    #[test]
    fn only_the_first_processor_boots() {
        let tables = tables(0xf_0000, 2);
        let processors = &tables[16 + HEADER_SIZE..];
        assert_eq!((processors[1], processors[3]), (0, 3));
        assert_eq!((processors[21], processors[23]), (1, 1));
    }

    #[test]
    fn the_largest_machine_fits() {
        assert!(
            tables(layout::MP_TABLES, layout::MAX_VCPUS).len() as u64 <= layout::ACPI_TABLES_END - layout::MP_TABLES
        );
    }
}
