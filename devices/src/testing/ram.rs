//! Guest memory with an allocator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

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

    /// 9 MiB of zeroes.
    pub fn new() -> Self {
        let ram = Arc::new(GuestMemoryMmap::from_ranges(&REGIONS).expect("memory for a test"));
        Self { ram, next: Arc::new(AtomicU64::new(ARENA)) }
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
