//! The host kernel's data about a running VMM: memory from smaps, exits from KVM's debugfs.

use std::collections::BTreeMap;
use std::path::Path;

/// Memory of a VMM process in KiB. Guest memory counts only in `guest_rss_kib`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub rss_kib: u64,
    pub pss_kib: u64,
    pub private_dirty_kib: u64,
    pub guest_rss_kib: u64,
}

/// One mapping of `smaps`.
#[derive(Debug, Default)]
struct Mapping {
    start: u64,
    end: u64,
    named: bool,
    rss_kib: u64,
    pss_kib: u64,
    private_dirty_kib: u64,
}

/// Sums the text of `smaps`. A mapping is guest memory if it has at least half of `guest_mib`, or if its name says so
/// (`/memfd:hutch-…`); VMMs that split guest memory at the 4 GiB hole have two such mappings. Adjacent mappings that
/// together have the size of guest memory are guest memory too, because a VMM may map parts of it differently.
pub fn memory(smaps: &str, guest_mib: u64) -> Memory {
    let mappings = mappings(smaps);
    let mut guest: Vec<bool> =
        mappings.iter().map(|m| m.named || (m.end - m.start) >> 10 >= guest_mib.saturating_mul(1024) / 2).collect();
    // hutch's split: memory that does not fit below 3 GiB begins at 4 GiB.
    let low = guest_mib.min(3 << 10);
    for size in [low, guest_mib - low].into_iter().filter(|mib| *mib > 0) {
        for first in 0..mappings.len() {
            if let Some(last) = adjacent(&mappings[first..], size << 20) {
                guest[first..=first + last].fill(true);
            }
        }
    }
    let mut total = Memory::default();
    for (mapping, guest) in mappings.iter().zip(guest) {
        if guest {
            total.guest_rss_kib += mapping.rss_kib;
        } else {
            total.rss_kib += mapping.rss_kib;
            total.pss_kib += mapping.pss_kib;
            total.private_dirty_kib += mapping.private_dirty_kib;
        }
    }
    total
}

/// The index of the last of the adjacent mappings, beginning with the first, that together have `size` bytes.
fn adjacent(mappings: &[Mapping], size: u64) -> Option<usize> {
    let start = mappings.first()?.start;
    let mut at = start;
    for (index, mapping) in mappings.iter().enumerate() {
        if mapping.start != at || mapping.end - start > size {
            return None;
        }
        at = mapping.end;
        if at - start == size {
            return Some(index);
        }
    }
    None
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let Some((key, rest)) = line.split_once(':') else { continue };
        let kib = rest.split_whitespace().next().and_then(|v| v.parse::<u64>().ok());
        // "55e0-55e1 r--p 00000000 08:01 42 /path": the address range has no colon, the device has.
        if let Some((start, rest)) = key.split_once('-') {
            let end = rest.split(' ').next().and_then(|end| u64::from_str_radix(end, 16).ok());
            if let (Ok(start), Some(end)) = (u64::from_str_radix(start, 16), end)
                && start <= end
            {
                all.push(Mapping { start, end, named: line.contains("/memfd:hutch-ram"), ..Mapping::default() });
            }
            continue;
        }
        let Some(mapping) = all.last_mut() else { continue };
        match (key, kib) {
            ("Rss", Some(kib)) => mapping.rss_kib = kib,
            ("Pss", Some(kib)) => mapping.pss_kib = kib,
            ("Private_Dirty", Some(kib)) => mapping.private_dirty_kib = kib,
            _ => {}
        }
    }
    all
}

/// KVM's exit counters, summed over the VMs of process `pid`; empty if debugfs is not mounted or has none.
pub fn kvm_exits(debugfs: &Path, pid: u32) -> BTreeMap<String, u64> {
    const WANTED: [&str; 7] =
        ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "pf_taken", "signal_exits"];
    let mut sums = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(debugfs.join("kvm")) else { return sums };
    let prefix = format!("{pid}-");
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)) {
        for name in WANTED {
            let text = std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            if let Ok(count) = text.trim().parse::<u64>() {
                *sums.entry(name.to_owned()).or_insert(0) += count;
            }
        }
    }
    sums
}

/// CPU model and kernel release of this host.
pub fn host() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if let Some(model) = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')) {
        facts.insert("cpu".into(), model.1.trim().to_owned());
    }
    let cpus = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    facts.insert("cpus".into(), cpus.to_string());
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        facts.insert("kernel".into(), release.trim().to_owned());
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55e0c0000000-55e0c0001000 r--p 00000000 08:01 42   /usr/bin/vmm
Size:                  4 kB
Rss:                   4 kB
Pss:                   2 kB
Private_Dirty:         0 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Rss:               30000 kB
Pss:               30000 kB
Private_Dirty:     30000 kB
7f1000000000-7f1000100000 rw-s 00000000 00:01 9   /memfd:hutch-ram (deleted)
Size:               1024 kB
Rss:                 100 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0   [stack]
Size:                132 kB
Rss:                  12 kB
Pss:                  12 kB
Private_Dirty:        12 kB
";

    #[test]
    fn guest_memory_is_counted_separately() {
        let m = memory(SMAPS, 128);
        assert_eq!(m, Memory { rss_kib: 16, pss_kib: 14, private_dirty_kib: 12, guest_rss_kib: 30100 });
        assert_eq!(memory("", 128), Memory::default());
        assert_eq!(memory("garbage\nRss: x kB\n:\n", 1), Memory::default());
    }

    #[test]
    fn adjacent_parts_with_the_size_of_the_guest_are_guest_memory() {
        let line = |start: u64, mib: u64, rss: u64| {
            format!(
                "{start:x}-{:x} rw-p 00000000 00:00 0\nSize: {} kB\nRss: {rss} kB\n",
                start + (mib << 20),
                mib << 10
            )
        };
        let (base, mib) = (0x7f00_0000_0000, 1u64 << 20);
        let parts = [(16, 1), (14, 2), (2, 4), (96, 8)];
        let mut at = base;
        let mut text = line(base - 0x10_0000, 1, 100);
        for (size, rss) in parts {
            text += &line(at, size, rss);
            at += size * mib;
        }
        text += &line(at, 1, 200);
        let m = memory(&text, 128);
        assert_eq!((m.guest_rss_kib, m.rss_kib), (15, 300));
        assert_eq!(memory(&text, 64).guest_rss_kib, 8, "only the part that is large enough by itself");
    }

    #[test]
    fn exits_of_all_vms_of_a_process_are_summed() {
        let dir = tempfile::tempdir().unwrap();
        for (vm, n) in [("77-10", 5), ("77-11", 7), ("770-10", 100)] {
            let path = dir.path().join("kvm").join(vm);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("exits"), format!("{n}\n")).unwrap();
        }
        assert_eq!(kvm_exits(dir.path(), 77).get("exits"), Some(&12));
        assert!(kvm_exits(dir.path(), 1).is_empty());
        assert!(kvm_exits(Path::new("/nonexistent"), 1).is_empty());
    }
}
