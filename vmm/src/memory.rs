//! Guest memory: mapped without touching a page. Runs on the builder's thread.
#![expect(unsafe_code, reason = "memfd_create and madvise on guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use hutch_devices::ram::PlugMap;
use hutch_devices::virtio::mem::BLOCK_SIZE;
use hutch_devices::GuestRam;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::arch::x86_64::memmap::{self, GuestRange};
use crate::config::{MemoryBacking, MemoryConfig};

/// Why the host refuses the guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The guest would have more memory than the host.
    #[error("{asked_mib} MiB of guest memory are more than the host's {host_mib} MiB; ask for less")]
    BeyondHost { asked_mib: u64, host_mib: u64 },
    /// The host has too few free huge pages.
    #[error(
        "the host does not have {size_mib} MiB free in huge pages of {page_mib} MiB; reserve them in /sys/kernel/mm/hugepages"
    )]
    HugePages { size_mib: u64, page_mib: u64, source: io::Error },
    /// The host refused the mapping.
    #[error("cannot map {size_mib} MiB of guest memory; ask for less, or see `ulimit -v` and vm.overcommit_memory")]
    Map { size_mib: u64, source: io::Error },
    /// The host does not support an option.
    #[error("the host refuses {what} for guest memory; switch that option off")]
    Advise { what: &'static str, source: io::Error },
}

/// Maps the memory that `config` asks for. `config` has been checked.
pub fn create(config: &MemoryConfig) -> Result<GuestRam, MemoryError> {
    let whole_mib = config.size_mib.saturating_add(config.pluggable_mib);
    check_host(whole_mib, host_mib())?;
    let size = config.size_mib << 20;
    let failed = |source| match config.backing {
        MemoryBacking::Hugetlb { page_mib } => MemoryError::HugePages { size_mib: config.size_mib, page_mib, source },
        _ => MemoryError::Map { size_mib: whole_mib, source },
    };
    let memfd = match config.backing {
        MemoryBacking::Memfd => Some(Arc::new(memfd(whole_mib << 20).map_err(failed)?)),
        _ => None,
    };
    let mut offset = 0;
    let mut regions = Vec::new();
    let pluggable = (config.pluggable_mib > 0).then(|| memmap::pluggable(size, config.pluggable_mib << 20));
    for range in memmap::ram(size).into_iter().chain(pluggable) {
        // Memory that is not plugged in has no access rights: nothing can take the host's memory for it.
        let access = if Some(range) == pluggable { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        let mapping =
            map(range, access, config.backing, memfd.as_ref().map(|file| (file.clone(), offset))).map_err(failed)?;
        advise(&mapping, config)?;
        offset += range.len;
        regions
            .push(GuestRegionMmap::new(mapping, GuestAddress(range.start)).expect("guest memory ends far below 2^64"));
    }
    let mem = GuestMemoryMmap::from_regions(regions).expect("ranges are ordered and do not overlap");
    Ok(match pluggable {
        Some(GuestRange { start, len }) => {
            GuestRam::with_pluggable(mem, Arc::new(PlugMap::new(start, len, BLOCK_SIZE)))
        }
        None => GuestRam::new(mem),
    })
}

fn check_host(asked_mib: u64, host_mib: u64) -> Result<(), MemoryError> {
    if asked_mib > host_mib {
        return Err(MemoryError::BeyondHost { asked_mib, host_mib });
    }
    Ok(())
}

/// The host's total memory in MiB.
fn host_mib() -> u64 {
    // SAFETY: sysconf only returns numbers.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    (u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0)) >> 20
}

fn memfd(size: u64) -> io::Result<File> {
    // SAFETY: a constant C string.
    let fd = unsafe { libc::memfd_create(c"hutch-ram".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // A process that was given the file cannot cut it, which would raise SIGBUS here, or make it larger.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: changes our own file.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn map(
    range: GuestRange,
    access: libc::c_int,
    backing: MemoryBacking,
    file: Option<(Arc<File>, u64)>,
) -> io::Result<MmapRegion<()>> {
    let flags = match backing {
        // Keeps memory that the guest may never touch out of the host's swap accounting.
        MemoryBacking::Anonymous => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        MemoryBacking::Memfd => libc::MAP_SHARED | libc::MAP_NORESERVE,
        // Reserved now: a huge page missing later would be a SIGBUS.
        MemoryBacking::Hugetlb { page_mib } => {
            let log2 = (page_mib << 20).trailing_zeros() as i32;
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | log2 << libc::MAP_HUGE_SHIFT
        }
    };
    let len = usize::try_from(range.len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let mut builder = MmapRegionBuilder::new(len).with_mmap_prot(access).with_mmap_flags(flags);
    if let Some((file, offset)) = file {
        builder = builder.with_file_offset(FileOffset::from_arc(file, offset));
    }
    builder.build().map_err(|error| match error {
        vm_memory::mmap::MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other),
    })
}

fn advise(mapping: &MmapRegion<()>, config: &MemoryConfig) -> Result<(), MemoryError> {
    let advise = |advice, what| {
        // SAFETY: the whole of our own mapping; no advice changes contents.
        match unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) } {
            0 => Ok(()),
            _ => Err(MemoryError::Advise { what, source: io::Error::last_os_error() }),
        }
    };
    // The guest's memory is in no core dump and no child of this process. If that fails, the machine runs all the same.
    for (advice, what) in [(libc::MADV_DONTDUMP, "leaving out of dumps"), (libc::MADV_DONTFORK, "leaving out of forks")]
    {
        if let Err(MemoryError::Advise { what, source }) = advise(advice, what) {
            log::debug!("{what} guest memory: {source}");
        }
    }
    if config.thp && !matches!(config.backing, MemoryBacking::Hugetlb { .. }) {
        advise(libc::MADV_HUGEPAGE, "transparent huge pages")?;
    }
    if config.prefault {
        advise(libc::MADV_POPULATE_WRITE, "prefaulting")?;
    }
    Ok(())
}

/// Size of the host's transparent huge pages in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Asks the host for small pages in the 2 MiB block around `address`, because the guest will use little of it soon: the
/// host clears a huge page as a whole when its first byte is touched. On a host without huge pages this has no effect.
pub fn small_pages(ram: &GuestRam, address: u64) {
    let start = address & !(HUGE_PAGE - 1);
    let Ok(slice) = ram.get_slice(GuestAddress(start), HUGE_PAGE as usize) else { return };
    // SAFETY: memory of the guest's mapping; its contents do not change.
    let done = unsafe { libc::madvise(slice.ptr_guard().as_ptr() as *mut _, slice.len(), libc::MADV_NOHUGEPAGE) };
    if done != 0 {
        log::debug!("small pages at {start:#x}: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryRegion};

    use super::*;

    fn config(size_mib: u64, backing: MemoryBacking) -> MemoryConfig {
        MemoryConfig { backing, ..MemoryConfig::anonymous(size_mib) }
    }

    /// Pages of the first region that are in memory.
    fn resident(ram: &GuestRam) -> usize {
        let region = ram.iter().next().expect("a region");
        let mut pages = vec![0u8; region.size().div_ceil(4096)];
        // SAFETY: the region's own mapping, and a byte for each page.
        let done = unsafe { libc::mincore(region.as_ptr().cast(), region.size(), pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn memory_is_mapped_without_touching_it() {
        for backing in [MemoryBacking::Anonymous, MemoryBacking::Memfd] {
            let ram = create(&config(64, backing)).expect("64 MiB");
            assert_eq!(resident(&ram), 0, "{backing:?}");
            ram.write_obj(7u8, GuestAddress(0x10_0000)).expect("in RAM");
            assert!(resident(&ram) >= 1);
        }
    }

    #[test]
    fn small_pages_are_for_one_block_and_touch_nothing() {
        let ram = create(&config(8, MemoryBacking::Anonymous)).expect("8 MiB");
        small_pages(&ram, 0x20_0001);
        small_pages(&ram, 0x100_0000);
        assert_eq!(resident(&ram), 0);
        ram.write_obj(1u8, GuestAddress(0x20_0000)).expect("in RAM");
        assert_eq!(resident(&ram), 1, "one page of 4 KiB, whatever the host prefers");
    }

    #[test]
    fn more_than_3_gib_has_a_hole() {
        let ram = create(&config(5 << 10, MemoryBacking::Memfd)).expect("5 GiB, untouched");
        assert_eq!(ram.num_regions(), 2);
        assert!(ram.write_obj(1u64, GuestAddress((3 << 30) - 8)).is_ok());
        assert!(ram.write_obj(1u64, GuestAddress(3 << 30)).is_err());
        assert!(ram.write_obj(2u64, GuestAddress(4 << 30)).is_ok());
        assert!(ram.write_obj(1u64, GuestAddress((6 << 30) - 8)).is_ok());
        assert!(ram.write_obj(1u64, GuestAddress(6 << 30)).is_err());
        assert_eq!(ram.read_obj::<u64>(GuestAddress((3 << 30) - 8)).expect("in RAM"), 1, "halves do not alias");
    }

    #[test]
    fn memory_is_in_no_dump_and_no_fork_and_a_memfd_keeps_its_size() {
        for backing in [MemoryBacking::Anonymous, MemoryBacking::Memfd] {
            let ram = create(&MemoryConfig { pluggable_mib: 8, ..config(8, backing) }).expect("16 MiB");
            let maps = std::fs::read_to_string("/proc/self/smaps").expect("our own");
            for region in ram.iter() {
                let address = region.as_ptr() as u64;
                let holds = |line: &str| {
                    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                    let number = |hex| u64::from_str_radix(hex, 16).ok();
                    range.and_then(|(from, to)| Some(number(from)?..number(to)?)).is_some_and(|r| r.contains(&address))
                };
                let mut lines = maps.lines().skip_while(|line| !holds(line));
                let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("a mapping");
                let flags: Vec<_> = flags.split(' ').collect();
                assert!(flags.contains(&"dd") && flags.contains(&"dc"), "{backing:?}: {flags:?}");
                if let Some(file) = region.file_offset() {
                    for len in [0, 1 << 40] {
                        let error = file.file().set_len(len).expect_err("sealed");
                        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                    }
                }
            }
        }
    }

    #[test]
    fn prefaulted_memory_is_there() {
        let ram = create(&MemoryConfig { prefault: true, ..config(4, MemoryBacking::Anonymous) }).expect("4 MiB");
        assert_eq!(resident(&ram), 1024);
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let error = create(&config(host_mib() + 1, MemoryBacking::Anonymous)).expect_err("too much");
        assert!(matches!(error, MemoryError::BeyondHost { .. }), "{error}");
        assert!(create(&config(u64::MAX >> 20, MemoryBacking::Anonymous)).is_err());
    }
}
