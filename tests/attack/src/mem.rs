//! The memory device. The host's kernel refuses a plug or an unplug now and then.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use hutch_devices::ram::PlugMap;
use hutch_devices::virtio::mem::{Mem, MemHandle, RegionMemory, BLOCK_SIZE};
use hutch_devices::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::driver::{self, Device, Part};
use crate::script::Script;

const BLOCKS: u64 = 8;
/// Beside the regions of the driver's own memory.
const REGION: u64 = 1 << 30;
const RAM: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 128 << 10), (GuestAddress(REGION), (BLOCKS * BLOCK_SIZE) as usize)];

/// The host's memory, of which each call uses up one bit: 1 fails.
struct Host(AtomicU32);

impl Host {
    fn answer(&self, addr: u64, len: u64) -> io::Result<()> {
        let inside =
            addr >= REGION && len > 0 && len <= BLOCKS * BLOCK_SIZE && addr - REGION <= BLOCKS * BLOCK_SIZE - len;
        assert!(
            inside && addr.is_multiple_of(BLOCK_SIZE) && len.is_multiple_of(BLOCK_SIZE),
            "{addr:#x}+{len:#x} is not of the region"
        );
        let failures = self.0.load(Ordering::Relaxed);
        self.0.store(failures >> 1, Ordering::Relaxed);
        if failures & 1 != 0 {
            Err(io::ErrorKind::OutOfMemory.into())
        } else {
            Ok(())
        }
    }
}

impl RegionMemory for Host {
    fn plug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.answer(addr, len)
    }

    fn unplug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.answer(addr, len)
    }
}

struct Guest(MemHandle);

impl Device for Guest {
    /// Type, address and number of blocks (VIRTIO 1.2, 5.15.6), and room for the response.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        let kind = script.u16() % 5;
        let addr = match script.u8() {
            index @ ..=0x7f => REGION + BLOCK_SIZE * u64::from(index % 9),
            _ => script.u64(),
        };
        let blocks = script.u16();
        let blocks = if blocks < 0xff00 { blocks % 10 } else { blocks };
        let bytes = [&kind.to_le_bytes()[..], &[0; 6], &addr.to_le_bytes(), &blocks.to_le_bytes(), &[0; 6]].concat();
        (0, vec![Part::Read(bytes), Part::Write(u32::from(script.pick(&[10u8, 10, 16, 9])))])
    }

    fn host(&mut self, script: &mut Script<'_>) {
        let wanted = self.0.request(BLOCK_SIZE * u64::from(script.u8() % 12));
        assert!(wanted <= self.0.capacity() && self.0.plugged() <= self.0.capacity());
    }
}

/// Attacks the memory device.
pub fn attack(data: &[u8]) {
    let map = Arc::new(PlugMap::new(REGION, BLOCKS * BLOCK_SIZE, BLOCK_SIZE));
    let memory = GuestMemoryMmap::from_ranges(&RAM).expect("a few MiB of memory");
    let ram = GuestRam::with_pluggable(memory, map.clone());
    let mut script = Script::new(data);
    let (device, handle) = Mem::new("mem", map, Arc::new(Host(AtomicU32::new(script.u32()))));
    driver::run(Box::new(device), ram, &mut Guest(handle), &mut script);
}
