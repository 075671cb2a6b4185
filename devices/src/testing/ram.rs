//! Guest memory with an allocator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::ram::PlugMap;
use crate::GuestRam;

/// Two adjacent regions, a hole, and a third region: a buffer may cross a border or end in the hole.
const REGIONS: [(GuestAddress, usize); 3] =
    [(GuestAddress(0), 4 << 20), (GuestAddress(4 << 20), 4 << 20), (GuestAddress(16 << 20), 1 << 20)];
/// First address that the allocator gives out. Tests may use the addresses below freely.
const ARENA: u64 = 1 << 20;
/// End of the addresses that the allocator gives out.
const ARENA_END: u64 = 8 << 20;

/// Guest memory with an allocator that never frees.
#[derive(Debug)]
pub struct TestRam {
    ram: GuestRam,
    next: Arc<AtomicU64>,
}

impl Default for TestRam {
    fn default() -> Self {
        Self::new()
    }
}

impl TestRam {
    /// An address in the hole between the regions.
    pub const HOLE: GuestAddress = GuestAddress(8 << 20);
    /// The border of two adjacent regions.
    pub const BORDER: GuestAddress = GuestAddress(4 << 20);
    /// An address above all regions.
    pub const OUTSIDE: GuestAddress = GuestAddress(1 << 40);

    /// Bytes of a block of the memory of [`Self::pluggable`].
    pub const BLOCK: u64 = 256 << 10;
    /// First address of the memory that [`Self::pluggable`] makes pluggable.
    pub const PLUGGABLE: GuestAddress = REGIONS[2].0;

    /// 9 MiB of zeroes.
    pub fn new() -> Self {
        Self::of(GuestRam::new(GuestMemoryMmap::from_ranges(&REGIONS).expect("memory for a test")))
    }

    /// The same memory, with its last region pluggable and nothing plugged in. The region stays accessible.
    pub fn pluggable() -> Self {
        let (addr, size) = REGIONS[2];
        let map = Arc::new(PlugMap::new(addr.0, size as u64, Self::BLOCK));
        let mem = GuestMemoryMmap::from_ranges(&REGIONS).expect("memory for a test");
        Self::of(GuestRam::with_pluggable(mem, map))
    }

    fn of(ram: GuestRam) -> Self {
        Self { ram, next: Arc::new(AtomicU64::new(ARENA)) }
    }

    /// The state of the memory of [`Self::pluggable`].
    pub fn plug_map(&self) -> Arc<PlugMap> {
        self.ram.pluggable().expect("memory of `TestRam::pluggable`").clone()
    }

    /// The memory as devices use it.
    pub fn share(&self) -> GuestRam {
        self.ram.clone()
    }

    /// A second handle to the same memory and allocator.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { ram: self.ram.clone(), next: self.next.clone() }
    }

    /// Allocates `len` bytes, aligned to 16.
    pub fn alloc(&self, len: u64) -> GuestAddress {
        let addr = self.next.fetch_add(len.next_multiple_of(16), Ordering::Relaxed);
        assert!(addr + len <= ARENA_END, "a test has used up its guest memory");
        GuestAddress(addr)
    }

    /// Copies `data` to newly allocated guest memory.
    pub fn put(&self, data: &[u8]) -> GuestAddress {
        let addr = self.alloc(data.len() as u64);
        self.write(addr, data);
        addr
    }

    /// Reads `len` bytes at `addr`.
    pub fn read(&self, addr: GuestAddress, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram.read_slice(&mut data, addr).expect("an address of a test");
        data
    }

    /// Writes `data` at `addr`.
    pub fn write(&self, addr: GuestAddress, data: &[u8]) {
        self.ram.write_slice(data, addr).expect("an address of a test");
    }
}
