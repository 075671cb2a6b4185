//! The disk device, with an image of 64 KiB; the host ejects and inserts it.

use std::path::PathBuf;

use hutch_devices::virtio::block::{Block, BlockSlot};

use crate::driver::{self, Device, Part};
use crate::files;
use crate::script::Script;

const IMAGE: u64 = 64 << 10;

struct Disk {
    slot: BlockSlot,
    image: PathBuf,
}

impl Device for Disk {
    /// A header (VIRTIO 1.2, 5.2.6), data in up to three buffers, and the status.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        let kind = script.pick(&[0u32, 1, 4, 8, 11, 13, 14, 99]);
        let sector = match script.u8() {
            sector @ ..=0xef => u64::from(sector),
            _ => script.u64(),
        };
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let mut parts = vec![Part::Read(header)];
        for _ in 0..script.u8() % 4 {
            parts.push(match script.u8() {
                how @ ..=0x3f => Part::Write(512 * u32::from(how % 8)),
                0x40..=0x5f => Part::Read(vec![0xaa; 512 * usize::from(script.u8() % 8)]),
                0x60..=0x7f => Part::Write(u32::from(script.u16())),
                _ => Part::Read(script.string()),
            });
        }
        parts.push(Part::Write(u32::from(script.u8() != 0xff)));
        (0, parts)
    }

    fn host(&mut self, script: &mut Script<'_>) {
        match script.u8() % 4 {
            0 => self.slot.eject(),
            how => drop(self.slot.insert(&self.image, how == 1, "serial")),
        }
    }
}

/// Attacks the disk device.
pub fn attack(data: &[u8]) {
    let (file, image) = files::unnamed(&[]);
    file.set_len(IMAGE).expect("room for an image");
    let (device, slot) = Block::slot("blk0");
    let mut script = Script::new(data);
    if script.u8() < 0xe0 {
        slot.insert(&image, script.u8() % 4 == 1, "serial").expect("an image for the disk");
    }
    driver::run(Box::new(device), driver::memory(), &mut Disk { slot, image }, &mut script);
}
