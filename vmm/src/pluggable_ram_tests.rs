use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

use vm_memory::Bytes;

use super::*;
use crate::config::{MemoryBacking, MemoryConfig};
use crate::memory;

/// Calls of the host that a test lets fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `mprotect` that gives access.
    Access,
    /// `mprotect` that takes it.
    Protect,
    /// `madvise` or `fallocate`.
    Free,
}

pub mod faults {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io;

    use super::Call;

    thread_local! {
        /// The next calls that fail, in this order. Calls of other kinds come and go in between.
        pub static PLAN: RefCell<VecDeque<(Call, i32)>> = const { RefCell::new(VecDeque::new()) };
    }

    /// Fails if the plan says so.
    pub fn check(call: Call) -> io::Result<()> {
        PLAN.with_borrow_mut(|plan| match plan.front() {
            Some(&(planned, errno)) if planned == call => {
                plan.pop_front();
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        })
    }
}

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

/// Lets the next calls of this thread fail.
fn fail(calls: &[(Call, i32)]) {
    faults::PLAN.with_borrow_mut(|plan| plan.extend(calls));
}

/// A range may consist of several mappings of the host, which changes one after the other.
#[test]
fn memory_that_the_host_gives_in_part_only_cannot_be_used() {
    for backing in BACKINGS {
        let ram = create(backing);
        let region = PluggableRam(ram.clone());
        // The kernel refuses to make this one writable, after it has changed the one before it.
        let readable = File::open("/proc/self/exe").expect("this program");
        let second = ram.get_host_address(GuestAddress(START + BLOCK)).expect("mapped");
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: replaces a part of the region's own mapping, which nothing uses.
        let mapped = unsafe { libc::mmap(second.cast(), 4096, libc::PROT_NONE, flags, readable.as_raw_fd(), 0) };
        assert_eq!(mapped, second.cast());
        let error = region.plug(START, 2 * BLOCK).expect_err("it cannot be written to");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        assert!(!is_accessible(&ram, START), "{backing:?}");
        // The other blocks are as usable as before.
        region.plug(START, BLOCK).expect("plugged");
        assert!(is_accessible(&ram, START));
    }
}

#[test]
fn memory_whose_removal_the_host_refuses_can_be_used() {
    let calls = [(Call::Protect, libc::ENOMEM), (Call::Free, libc::ENOMEM), (Call::Free, libc::EAGAIN)];
    for (backing, call) in BACKINGS.into_iter().flat_map(|backing| calls.map(|call| (backing, call))) {
        let ram = create(backing);
        let region = PluggableRam(ram.clone());
        region.plug(START, 2 * BLOCK).expect("plugged");
        ram.write_obj(7u64, GuestAddress(START)).expect("accessible");
        fail(&[call]);
        let error = region.unplug(START, BLOCK).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(call.1));
        assert!(is_accessible(&ram, START) && is_accessible(&ram, START + BLOCK), "{backing:?} {call:?}");
        assert!(resident_kib(&ram) >= 4, "nothing was freed");
        region.unplug(START, 2 * BLOCK).expect("the host has recovered");
        assert_eq!((is_accessible(&ram, START), resident_kib(&ram)), (false, 0));
    }
}

/// The host keeps the memory and does not give access to it either: the guest has given it up, and it must not come back
/// unasked. It goes when the guest plugs the blocks in again.
#[test]
fn memory_that_the_host_cannot_free_is_out_of_reach_until_it_is_plugged_in() {
    for backing in BACKINGS {
        let ram = create(backing);
        let region = PluggableRam(ram.clone());
        region.plug(START, BLOCK).expect("plugged");
        ram.write_obj(7u64, GuestAddress(START)).expect("accessible");
        fail(&[(Call::Free, libc::ENOMEM), (Call::Access, libc::ENOMEM)]);
        region.unplug(START, BLOCK).expect("unplugged as far as the guest can see");
        assert!(!is_accessible(&ram, START));
        fail(&[(Call::Access, libc::ENOMEM)]);
        region.plug(START, BLOCK).expect_err("refused");
        assert!(!is_accessible(&ram, START));
        region.plug(START, BLOCK).expect("plugged");
        assert!(is_accessible(&ram, START));
        region.unplug(START, BLOCK).expect("unplugged");
        assert_eq!(resident_kib(&ram), 0, "{backing:?}");
    }
}

/// A real one: a file of memory that no process may write to any more does not get holes either.
#[test]
fn a_sealed_file_of_memory_keeps_its_pages_and_the_guest_its_blocks() {
    let size = 4 * BLOCK;
    // SAFETY: a constant C string.
    let fd = unsafe { libc::memfd_create(c"sealed".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size).expect("a size");
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let mapping = vm_memory::mmap::MmapRegionBuilder::new(size as usize)
        .with_mmap_prot(libc::PROT_NONE)
        .with_mmap_flags(flags)
        .with_file_offset(vm_memory::FileOffset::new(file.try_clone().expect("a descriptor"), 0));
    let region =
        vm_memory::GuestRegionMmap::new(mapping.build().expect("mapped"), GuestAddress(START)).expect("placed");
    let mem = vm_memory::GuestMemoryMmap::from_regions(vec![region]).expect("one region");
    let ram = GuestRam::new(mem);
    let region = PluggableRam(ram.clone());
    region.plug(START, BLOCK).expect("plugged");
    ram.write_obj(7u64, GuestAddress(START)).expect("accessible");
    // SAFETY: changes our own file.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
    assert_eq!(sealed, 0, "Linux 5.1");
    assert_eq!(region.unplug(START, BLOCK).expect_err("sealed").raw_os_error(), Some(libc::EPERM));
    assert_eq!(ram.read_obj::<u64>(GuestAddress(START)).expect("mapped"), 7);
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
