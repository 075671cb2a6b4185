//! Drops pages that a program's start has touched. A program of its own: other tests would touch the pages again.

use hutch_vmm::footprint::{drop_program_pages, ProgramPages};

/// Resident KiB of the program's segments with these access rights.
fn resident(access: &str) -> u64 {
    let program = std::fs::read_link("/proc/self/exe").expect("our own program");
    let program = program.to_str().expect("a plain name");
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("our own");
    let mut ours = false;
    let mut sum = 0;
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Rss", size)) if ours => sum += size.trim().trim_end_matches(" kB").parse::<u64>().expect("a size"),
            Some((word, _)) if !word.contains(' ') => {}
            _ => ours = line.ends_with(program) && line.contains(access),
        }
    }
    sum
}

/// Enough constant data to show in the statistics.
static CONSTANT: [u8; 1 << 20] = [7; 1 << 20];

#[test]
fn the_program_goes_on_with_less_of_itself_in_memory() {
    let sum = || std::hint::black_box(&CONSTANT).iter().copied().map(u64::from).sum::<u64>();
    let resident_of = |kinds: [&str; 3]| kinds.map(resident);
    let all = [" r--p ", " r-xp ", " rw-p "];
    assert_eq!(sum(), 7 << 20);
    // Reading the statistics touches the program too.
    resident_of(all);
    let [data, code, written] = resident_of(all);
    let dropped = drop_program_pages(ProgramPages::Data);
    let [less_data, ..] = resident_of(all);
    assert!(less_data + 768 < data, "{data} KiB, {less_data} KiB");
    assert!(drop_program_pages(ProgramPages::DataAndCode) > dropped);
    let [_, less_code, still_written] = resident_of(all);
    assert!(less_code < code, "{code} KiB, {less_code} KiB");
    assert!(written > 0 && still_written >= written);
    assert_eq!(sum(), 7 << 20);
}
