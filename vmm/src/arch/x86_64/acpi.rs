//! ACPI 6.4 tables of a hardware-reduced machine (section 4.1): no PM timer, no SCI, no legacy devices, power-off by
//! sleep control register, reset by reset register, virtio-mmio devices in the DSDT.
//!
//! `Devices::add` (`attach.rs`) chooses the windows and the interrupt controller pins of the devices; `acpi_tables` of the machine's
//! `builder.rs` calls this, and `load` there writes the tables to [`layout::ACPI_TABLES`].

use acpi_tables::aml::{
    Device, EISAName, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope, IO, ONE,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, ProcessorLocalApic, MADT};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;

use super::layout;

const OEM_ID: [u8; 6] = *b"HUTCH ";
const OEM_TABLE_ID: [u8; 8] = *b"HUTCHVM ";
const OEM_REVISION: u32 = 1;

/// FADT, IA-PC boot architecture flags: devices that the guest need not probe (5.2.9.3).
const NO_VGA: u16 = 1 << 2;
const NO_RTC: u16 = 1 << 5;

/// A virtio-mmio device in the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioNode {
    /// Guest physical address of its window.
    pub address: u64,
    /// Its IOAPIC pin.
    pub gsi: u32,
}

/// The machine that the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Number of vCPUs; their APIC ids are 0 to `vcpus` - 1.
    pub vcpus: u32,
    /// Devices, in the order in which the guest finds them.
    pub virtio: &'a [VirtioNode],
    /// Whether the machine has a serial port that the guest may use as a terminal.
    pub serial: bool,
}

/// Encodes the tables for address `base`, which is also the address of the RSDP.
pub fn tables(base: u64, description: &Description<'_>) -> Vec<u8> {
    let mut image = Image { base, bytes: vec![0; Rsdp::len().next_multiple_of(16)] };
    let dsdt = image.append(&dsdt(description));
    let fadt = image.append(&fadt(dsdt));
    let madt = image.append(&madt(description.vcpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = image.append(&xsdt);
    let rsdp = encoded(&Rsdp::new(OEM_ID, xsdt));
    image.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    image.bytes
}

/// Tables one after the other, each at an address that is a multiple of 16.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    fn append(&mut self, table: &dyn Aml) -> u64 {
        let address = self.base + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        address
    }
}

fn encoded(item: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.to_aml_bytes(&mut bytes);
    bytes
}

fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // No fixed power and sleep buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = (NO_VGA | NO_RTC).into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_PORT);
    fadt.finalize()
}

fn madt(vcpus: u32) -> impl Aml {
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(layout::LOCAL_APIC));
    for index in 0..vcpus {
        let id = u8::try_from(index).expect("the number of vCPUs is below the number of xAPIC ids");
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

/// The DSDT: the sleep type that powers off, each virtio device with its window and interrupt, and the serial port.
fn dsdt(description: &Description<'_>) -> impl Aml + use<> {
    let mut body = encoded(&Name::new(
        Path::new("_S5_"),
        // SLP_TYP for both registers of a PM1 block; a hardware-reduced machine uses the first (7.4.2).
        &Package::new(vec![&layout::SLEEP_TYPE_S5, &layout::SLEEP_TYPE_S5]),
    ));
    let devices: Vec<Vec<u8>> = description
        .virtio
        .iter()
        .enumerate()
        .map(|(index, node)| virtio(index, node))
        .chain(description.serial.then(serial))
        .collect();
    let raw: Vec<Raw> = devices.iter().map(|bytes| Raw(bytes)).collect();
    let children = raw.iter().map(|raw| raw as &dyn Aml).collect();
    Scope::new(Path::new("\\_SB_"), children).to_aml_bytes(&mut body);

    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt
}

/// Encoded AML.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.0);
    }
}

/// Linux' virtio_mmio driver binds to the id LNRO0005.
fn virtio(index: usize, node: &VirtioNode) -> Vec<u8> {
    let address = u32::try_from(node.address).expect("windows lie below 4 GiB");
    encoded(&Device::new(
        Path::new(&format!("VR{index:02X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_CCA"), &ONE), // DMA is coherent
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, address, layout::VIRTIO_MMIO_SIZE as u32),
                    // Edge-triggered, active high, not shared: the behaviour of an irqfd without resampling.
                    &Interrupt::new(true, true, false, false, node.gsi),
                ]),
            ),
        ],
    ))
}

fn serial() -> Vec<u8> {
    encoded(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0usize),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORT_SIZE as u8),
                    &Interrupt::new(true, true, false, false, layout::SERIAL_GSI),
                ]),
            ),
        ],
    ))
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
mod tests;
