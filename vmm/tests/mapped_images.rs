//! Images that are mapped into a guest and changed while it runs. Without `/dev/kvm` these tests fail.

mod guests;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use guests::{Bench, TEST_TIMEOUT};
use hutch_vmm::config::ImageLoading;
use hutch_vmm::{Machine, MachineExit};

const LEN: usize = 1 << 20;

fn bench(loading: ImageLoading) -> Bench {
    with_image(loading, (0..LEN).map(|at| (at * 7 + at / 256) as u8).collect())
}

fn with_image(loading: ImageLoading, mut image: Vec<u8>) -> Bench {
    let mut bench = Bench::new(guests::watch_initrd());
    image[..2].copy_from_slice(&[0x1f, 0x8b]);
    let path = bench.path("initrd");
    fs::write(&path, image).expect("a temporary file");
    bench.config.memory.size_mib = 16;
    bench.config.initrd = Some(path);
    bench.config.loading = loading;
    bench
}

fn is_mapped(path: &Path) -> bool {
    let path = path.to_str().expect("a plain name");
    fs::read_to_string("/proc/self/maps").expect("our own").lines().any(|line| line.contains(path))
}

/// Waits until the guest has read its initrd three more times.
fn goes_on(machine: &Machine) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let reads = || machine.counters().exits.pio_out;
    let enough = reads() + 3;
    while reads() < enough {
        assert_eq!(machine.wait(Some(Duration::from_millis(1))), None, "the guest found something else");
        assert!(Instant::now() < deadline, "no progress");
    }
}

#[test]
fn a_guest_keeps_what_was_mapped_when_the_file_is_overwritten_and_cut() {
    keeps_what_was_mapped(&bench(ImageLoading::Map));
}

/// `Auto` maps whole blocks of one byte.
#[test]
fn a_guest_keeps_what_was_mapped_because_it_is_filler() {
    let mut image = image_of_filler();
    let mapped = with_image(ImageLoading::Auto, image.clone());
    keeps_what_was_mapped(&mapped);
    // The same without filler.
    image[3 * LEN..].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    image[LEN..2 * LEN].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    let copied = with_image(ImageLoading::Auto, image);
    let machine = copied.start();
    goes_on(&machine);
    assert!(!is_mapped(&copied.path("initrd")));
}

/// Two huge pages with contents in the first half and one byte repeated in the second.
fn image_of_filler() -> Vec<u8> {
    (0..4 * LEN).map(|at| if (at / LEN).is_multiple_of(2) { (at * 7 + at / 256) as u8 } else { 0xcc }).collect()
}

fn keeps_what_was_mapped(bench: &Bench) {
    let path = bench.path("initrd");
    let len = fs::metadata(&path).expect("just written").len();
    let machine = bench.start();
    goes_on(&machine);
    assert!(is_mapped(&path));
    // Opening waits until the guest has a copy.
    let file = OpenOptions::new().write(true).open(&path).expect("ours");
    assert!(!is_mapped(&path));
    file.set_len(0).expect("cut");
    file.set_len(len).expect("zeroes");
    goes_on(&machine);
    machine.stopper().stop();
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped));
    machine.shutdown().expect("everything leaves");
}

#[test]
fn a_guest_that_is_paused_or_not_started_keeps_it_too_and_stays_so() {
    let bench = bench(ImageLoading::Map);
    let path = bench.path("initrd");
    let mut first = bench.start();
    goes_on(&first);
    first.pause().expect("it runs");
    let mut second = Machine::build(&bench.config).expect("built");
    fs::write(&path, "something else").expect("both returned their leases");
    assert!(!is_mapped(&path));
    let before = first.counters().exits.pio_out;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(first.counters().exits.pio_out, before, "it is still paused");
    first.resume().expect("it is paused");
    goes_on(&first);
    second.start().expect("it was built");
    goes_on(&second);
}

/// A guest reads its initrd once, so a copy is faster.
#[test]
fn an_initrd_is_copied_unless_mapping_is_configured() {
    for loading in [ImageLoading::Auto, ImageLoading::Copy] {
        let bench = bench(loading);
        let machine = bench.start();
        goes_on(&machine);
        assert!(!is_mapped(&bench.path("initrd")), "{loading:?}");
    }
}

#[test]
fn a_dropped_machine_does_not_block_writers() {
    let bench = bench(ImageLoading::Map);
    let path = bench.path("initrd");
    let machine = bench.start();
    goes_on(&machine);
    assert!(is_mapped(&path));
    drop(machine);
    let begin = Instant::now();
    fs::write(&path, "something else").expect("written");
    assert!(begin.elapsed() < TEST_TIMEOUT / 4, "the writer was blocked for {:?}", begin.elapsed());
}
