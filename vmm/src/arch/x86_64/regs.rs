//! Registers of the boot processor at the entry to the kernel.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::layout;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 2;

/// Selectors of the 64-bit Linux entry (`__BOOT_CS`, `__BOOT_DS`).
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;

/// The state in which the boot processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// 32-bit protected mode without paging; EBX = start info (Xen's "x86/HVM direct boot ABI").
    Pvh {
        /// Physical address of the entry.
        entry: u32,
    },
    /// 64-bit mode with the first GiB mapped one to one; RSI = boot_params (Linux' x86 boot protocol, "64-bit boot
    /// protocol").
    Linux64 {
        /// Physical address of the entry.
        entry: u64,
    },
}

impl EntryState {
    /// Writes the state into the registers that KVM reports after reset.
    pub fn apply(&self, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
        regs.rflags = RFLAGS;
        match *self {
            Self::Pvh { entry } => {
                regs.rip = entry.into();
                regs.rbx = layout::PVH_START_INFO;
                sregs.cr0 = CR0_PE;
                sregs.cr4 = 0;
                sregs.efer = 0;
                set_segments(sregs, code(false), TSS_32);
                sregs.gdt = kvm_dtable::default();
            }
            Self::Linux64 { entry } => {
                regs.rip = entry;
                regs.rsi = layout::ZERO_PAGE;
                sregs.cr0 = CR0_PE | CR0_PG;
                sregs.cr3 = layout::PML4;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                set_segments(sregs, code(true), TSS_64);
                sregs.gdt =
                    kvm_dtable { base: layout::GDT, limit: (size_of_val(&gdt()) - 1) as u16, ..Default::default() };
            }
        }
        sregs.idt = kvm_dtable::default();
    }
}

/// The GDT that goes with the 64-bit entry: null, unused, code, data, and an unused TSS.
pub fn gdt() -> [u64; 5] {
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
}

/// Busy 32-bit and 64-bit TSS have the same type number.
const TSS_32: u8 = 11;
const TSS_64: u8 = 11;

fn set_segments(sregs: &mut kvm_sregs, code: kvm_segment, tss: u8) {
    sregs.cs = code;
    let data = data();
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { selector: BOOT_TSS, limit: 0x67, type_: tss, present: 1, ..Default::default() };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

fn code(long: bool) -> kvm_segment {
    kvm_segment {
        selector: BOOT_CS,
        limit: u32::MAX,
        type_: 11, // execute, read, accessed
        present: 1,
        s: 1,
        g: 1,
        db: (!long).into(),
        l: long.into(),
        ..Default::default()
    }
}

fn data() -> kvm_segment {
    kvm_segment {
        selector: BOOT_DS,
        limit: u32::MAX,
        type_: 3, // read, write, accessed
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvh_enters_flat_protected_mode_without_paging() {
        let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
        sregs.apic_base = 0xfee0_0900;
        EntryState::Pvh { entry: 0x100_0210 }.apply(&mut regs, &mut sregs);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0210, layout::PVH_START_INFO, 2));
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (1, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.base, sregs.cs.limit), (1, 0, 0, u32::MAX));
        assert_eq!(sregs.apic_base, 0xfee0_0900, "state that KVM set and hutch does not know stays");
    }

    #[test]
    fn linux64_enters_long_mode_with_its_own_tables() {
        let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
        EntryState::Linux64 { entry: 0x100_0200 }.apply(&mut regs, &mut sregs);
        assert_eq!((regs.rip, regs.rsi), (0x100_0200, layout::ZERO_PAGE));
        assert_eq!(sregs.cr0, 0x8000_0001);
        assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (layout::PML4, 0x20, 0x500));
        assert_eq!((sregs.cs.db, sregs.cs.l), (0, 1));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (layout::GDT, 39));
    }

    #[test]
    fn cached_segments_agree_with_the_gdt() {
        let described = |entry: u64| ((entry >> 40) & 0xf) as u8;
        let gdt = gdt();
        assert_eq!(described(gdt[usize::from(BOOT_CS / 8)]), code(true).type_);
        assert_eq!(described(gdt[usize::from(BOOT_DS / 8)]), data().type_);
        assert_eq!(gdt[usize::from(BOOT_CS / 8)] >> 53 & 1, 1, "L bit");
    }
}
