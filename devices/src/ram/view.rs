//! Guest memory for code that takes addresses from guest memory by itself: libraries that walk descriptors. Every access
//! pins its blocks first, so no access can touch memory that is not plugged in, even if the guest changes the
//! descriptors or unplugs memory meanwhile.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result;
use vm_memory::{
    Address, AtomicAccess, Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryRegion, GuestRegionMmap,
    GuestUsize, MemoryRegionAddress, ReadVolatile, VolatileSlice, WriteVolatile,
};

use super::{GuestRam, Pins};

/// Guest memory for one request. Blocks that were accessed stay plugged in until it is dropped.
pub struct RamView<'a> {
    /// Below and above the hole for devices, and the pluggable region.
    regions: SmallVec<[PinningRegion<'a>; 3]>,
}

impl<'a> RamView<'a> {
    pub(super) fn new(ram: &'a GuestRam) -> Self {
        let region = |region| PinningRegion { region, ram, pins: RefCell::default() };
        Self { regions: ram.iter().map(region).collect() }
    }
}

impl<'a> GuestMemory for RamView<'a> {
    type R = PinningRegion<'a>;

    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        self.regions.iter()
    }
}

/// A region whose blocks are pinned when they are accessed.
pub struct PinningRegion<'a> {
    region: &'a GuestRegionMmap<()>,
    ram: &'a GuestRam,
    pins: RefCell<Pins>,
}

impl GuestMemoryRegion for PinningRegion<'_> {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.region.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        self.region.bitmap()
    }

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<VolatileSlice<'_, BS<'_, Self::B>>> {
        let slice = self.region.get_slice(offset, count)?;
        let addr = self.start_addr().unchecked_add(offset.raw_value());
        let pinned = self.ram.pin(addr, slice.len() as u64, &mut self.pins.borrow_mut());
        pinned.map_err(|_| GuestMemoryError::InvalidGuestAddress(addr)).map(|()| slice)
    }
}

/// `vm-memory`'s own implementation would take a slice of the whole region for each access.
impl Bytes<MemoryRegionAddress> for PinningRegion<'_> {
    type E = GuestMemoryError;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<usize> {
        Ok(self.get_slice(addr, buf.len())?.write(buf, 0)?)
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<usize> {
        Ok(self.get_slice(addr, buf.len())?.read(buf, 0)?)
    }

    fn write_slice(&self, buf: &[u8], addr: MemoryRegionAddress) -> Result<()> {
        Ok(self.get_slice(addr, buf.len())?.write_slice(buf, 0)?)
    }

    fn read_slice(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> Result<()> {
        Ok(self.get_slice(addr, buf.len())?.read_slice(buf, 0)?)
    }

    fn read_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> Result<usize> {
        Ok(self.get_slice(addr, count)?.read_volatile_from(0, src, count)?)
    }

    fn read_exact_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> Result<()> {
        Ok(self.get_slice(addr, count)?.read_exact_volatile_from(0, src, count)?)
    }

    fn write_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> Result<usize> {
        Ok(self.get_slice(addr, count)?.write_volatile_to(0, dst, count)?)
    }

    fn write_all_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> Result<()> {
        Ok(self.get_slice(addr, count)?.write_all_volatile_to(0, dst, count)?)
    }

    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> Result<()> {
        Ok(self.get_slice(addr, size_of::<T>())?.store(val, 0, order)?)
    }

    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> Result<T> {
        Ok(self.get_slice(addr, size_of::<T>())?.load(0, order)?)
    }
}
