use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

use vm_memory::Bytes;

use super::*;
use crate::config::{MemoryBacking, MemoryConfig};
use crate::memory;

const START: u64 = 4 << 30;
const BLOCK: u64 = 2 << 20;

fn create(backing: MemoryBacking) -> GuestRam {
    memory::create(&MemoryConfig { backing, pluggable_mib: 8, ..MemoryConfig::anonymous(4) }).expect("12 MiB")
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two new descriptors, without another owner.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Whether the kernel can write to a byte at `addr`; unlike this process it survives an attempt that fails.
fn is_accessible(ram: &GuestRam, addr: u64) -> bool {
    let (reader, mut writer) = pipe();
    writer.write_all(&[7]).expect("room in a pipe");
    let address = ram.get_host_address(GuestAddress(addr)).expect("mapped");
    // SAFETY: the kernel checks the address.
    let count = unsafe { libc::read(reader.as_raw_fd(), address.cast(), 1) };
    if count == 1 {
        return true;
    }
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    false
}

/// KiB of the pluggable region that are in memory.
fn resident_kib(ram: &GuestRam) -> u64 {
    let start = ram.get_host_address(GuestAddress(START)).expect("mapped");
    let mut pages = vec![0u8; (4 * BLOCK / 4096) as usize];
    // SAFETY: the region's own mapping, and a byte for each page.
    let done = unsafe { libc::mincore(start.cast(), 4 * BLOCK as usize, pages.as_mut_ptr()) };
    assert_eq!(done, 0);
    4 * pages.iter().filter(|page| **page & 1 == 1).count() as u64
}

const BACKINGS: [MemoryBacking; 2] = [MemoryBacking::Anonymous, MemoryBacking::Memfd];

#[test]
fn pluggable_memory_can_be_used_while_it_is_plugged_in_and_goes_back_to_the_host() {
    for backing in BACKINGS {
        let ram = create(backing);
        assert_eq!(ram.num_regions(), 2);
        assert!(ram.write_obj(1u8, GuestAddress(START + 4 * BLOCK)).is_err(), "there is no more");
        assert!((0..4).all(|block| !is_accessible(&ram, START + block * BLOCK)), "{backing:?}");
        let region = PluggableRam(ram.clone());
        region.plug(START, 2 * BLOCK).expect("plugged");
        for addr in [START, START + BLOCK, 0x1000] {
            assert!(is_accessible(&ram, addr));
            ram.write_obj(addr, GuestAddress(addr)).expect("accessible");
        }
        assert!(!is_accessible(&ram, START + 2 * BLOCK));
        let before = resident_kib(&ram);
        assert!(before >= 8, "{before} KiB");
        region.unplug(START + BLOCK, BLOCK).expect("unplugged");
        assert!(!is_accessible(&ram, START + BLOCK) && is_accessible(&ram, START + 8));
        assert!(resident_kib(&ram) < before);
        region.plug(START + BLOCK, 3 * BLOCK).expect("plugged");
        let read = |addr| ram.read_obj::<u64>(GuestAddress(addr)).expect("mapped");
        assert_eq!((read(START + BLOCK), read(START), read(0x1000)), (0, START, 0x1000), "{backing:?}");
        region.unplug(START, 4 * BLOCK).expect("unplugged");
        assert_eq!(resident_kib(&ram), 0);
        assert!(region.unplug(START + 3 * BLOCK, 2 * BLOCK).is_err());
        assert!(region.plug(START + 3 * BLOCK, 2 * BLOCK).is_err());
    }
}

#[test]
fn transparent_huge_pages_come_and_go_with_their_blocks() {
    let config = MemoryConfig { thp: true, pluggable_mib: 8, ..MemoryConfig::anonymous(4) };
    let Ok(ram) = memory::create(&config) else { return };
    let region = PluggableRam(ram.clone());
    region.plug(START, 4 * BLOCK).expect("plugged");
    (0..4).for_each(|block| ram.write_obj(1u8, GuestAddress(START + block * BLOCK)).expect("accessible"));
    region.unplug(START + BLOCK, BLOCK).expect("unplugged");
    assert!(!is_accessible(&ram, START + BLOCK));
    assert!(resident_kib(&ram) <= 3 * BLOCK / 1024);
    region.unplug(START + 2 * BLOCK, 2 * BLOCK).expect("unplugged");
    region.unplug(START, BLOCK).expect("unplugged");
    assert_eq!(resident_kib(&ram), 0);
}

/// Locks the region as `mlockall(MCL_FUTURE | MCL_ONFAULT)` does.
fn lock_region(ram: &GuestRam) {
    let start = ram.get_host_address(GuestAddress(START)).expect("mapped");
    // SAFETY: the region's own mapping; contents do not change.
    let done = unsafe { libc::mlock2(start.cast(), 4 * BLOCK as usize, libc::MLOCK_ONFAULT) };
    assert_eq!(done, 0, "8 MiB can be locked: {}", io::Error::last_os_error());
}

#[test]
fn locked_memory_goes_back_to_the_host_too() {
    for backing in BACKINGS {
        let ram = create(backing);
        lock_region(&ram);
        let region = PluggableRam(ram.clone());
        for _ in 0..2 {
            region.plug(START, 4 * BLOCK).expect("plugged");
            assert_eq!(resident_kib(&ram), 0, "{backing:?}: locked when it is used, not before");
            ram.write_obj(7u64, GuestAddress(START + BLOCK)).expect("accessible");
            assert!(resident_kib(&ram) > 0);
            region.unplug(START, 4 * BLOCK).expect("unplugged");
            assert_eq!(resident_kib(&ram), 0, "{backing:?}");
        }
    }
}

#[test]
fn locked_memory_goes_back_to_the_host_on_an_older_kernel() {
    let ram = create(MemoryBacking::Anonymous);
    lock_region(&ram);
    PluggableRam(ram.clone()).plug(START, 4 * BLOCK).expect("plugged");
    ram.write_obj(7u64, GuestAddress(START + BLOCK)).expect("accessible");
    let part = Part::of(&ram, START, 4 * BLOCK).expect("mapped");
    part.discard(&[libc::MADV_DONTNEED]).expect("discarded by hand");
    assert_eq!(resident_kib(&ram), 0);
    // It is locked again.
    // SAFETY: the region's own mapping, in which nothing is kept.
    let refused = check(unsafe { libc::madvise(part.start, part.len, libc::MADV_DONTNEED) });
    assert_eq!(refused.expect_err("locked").raw_os_error(), Some(libc::EINVAL));
}
