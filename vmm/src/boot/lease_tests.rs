//! Leases and their return to writers.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vm_memory::Bytes;

use super::*;
use crate::boot::file_pages;
use crate::testing::ram;

const LEN: usize = 0x3000;
const AT: u64 = 0x10_0000;

/// Creates a file, and returns its path and an open descriptor.
fn file(dir: &Path, byte: u8) -> (PathBuf, File) {
    let path = dir.join(format!("image{byte}"));
    fs::write(&path, vec![byte; LEN]).expect("a temporary file");
    let file = File::open(&path).expect("it is there");
    (path, file)
}

fn map(leases: &mut Leases, ram: &GuestRam, file: File, address: u64) -> Result<(), LeaseError> {
    let extent = FileExtent { offset: 0, address, len: LEN as u64 };
    leases.map(file, |file| Ok(file_pages::map(ram, file, extent)?.into_iter().collect()))
}

fn contents(ram: &GuestRam, address: u64) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    ram.read_slice(&mut bytes, GuestAddress(address)).expect("in RAM");
    bytes
}

#[test]
fn a_file_that_is_written_to_or_cut_leaves_the_guest_what_it_had() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ram = ram(4);
    let mut leases = Leases::new(ram.clone());
    let (one, opened_one) = file(dir.path(), 1);
    let (two, opened_two) = file(dir.path(), 2);
    let beside = AT + LEN as u64;
    map(&mut leases, &ram, opened_one, AT).expect("our own file");
    map(&mut leases, &ram, opened_two, beside).expect("our own file");
    // The guest has written to this page.
    ram.write_obj(9_u8, GuestAddress(AT + 0x1000)).expect("in RAM");
    let mut expected = vec![1; LEN];
    expected[0x1000] = 9;

    let begin = std::time::Instant::now();
    let mut writer = OpenOptions::new().write(true).open(&one).expect("the writer has waited");
    writer.write_all(&[7; LEN]).expect("written");
    writer.set_len(0).expect("cut");
    assert_eq!(contents(&ram, AT), expected);
    fs::write(&two, b"other").expect("cut while it is opened");
    assert_eq!(contents(&ram, beside), [2; LEN]);
    // The kernel breaks a lease that is not returned after 45 s by default.
    assert!(begin.elapsed() < Duration::from_secs(20), "writers were blocked for {:?}", begin.elapsed());
    assert!(lock(&leases.shared).leased.is_empty(), "each lease is returned by itself");
}

#[test]
fn a_file_that_is_open_for_writing_is_not_leased() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ram = ram(4);
    let mut leases = Leases::new(ram.clone());
    let (path, opened) = file(dir.path(), 1);
    let writer = OpenOptions::new().write(true).open(&path).expect("no lease yet");
    match map(&mut leases, &ram, opened, AT) {
        Err(LeaseError::Refused { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EAGAIN)),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&ram, AT), [0; LEN], "nothing was mapped");
    drop(writer);
    map(&mut leases, &ram, File::open(&path).expect("it is there"), AT).expect("the writer is gone");
    assert_eq!(contents(&ram, AT), [1; LEN]);
}

#[test]
fn nothing_is_left_of_leases_that_are_dropped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ram = ram(4);
    let mut leases = Leases::new(ram.clone());
    assert!(leases.keeper.is_none(), "no thread before there is a file");
    let (path, opened) = file(dir.path(), 1);
    map(&mut leases, &ram, opened, AT).expect("our own file");
    let tid = leases.keeper.as_ref().expect("a thread").tid;
    let task = PathBuf::from(format!("/proc/self/task/{tid}"));
    assert!(task.exists());
    drop(leases);
    // The entry may outlive the thread by a moment.
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        !task.exists()
    });
    assert!(gone);
    // Does not wait for a lease.
    OpenOptions::new().write(true).open(path).expect("no lease");
}

#[test]
fn an_extent_outside_of_memory_is_an_error_and_leaves_no_lease() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ram = ram(4);
    let mut leases = Leases::new(ram.clone());
    let (path, opened) = file(dir.path(), 1);
    assert!(matches!(map(&mut leases, &ram, opened, 64 << 20), Err(LeaseError::Map(_))));
    OpenOptions::new().write(true).open(path).expect("no lease");
}

#[test]
fn a_writer_waits_until_the_guest_can_be_paused() {
    use crate::hv::fake::{FakeHypervisor, Release, Scripted};
    use crate::testing::{pvh_image, PvhImage};
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, pvh_image(&PvhImage::default())).expect("a temporary file");
    let (initrd, _) = file(dir.path(), 7);
    let mut image = vec![9; LEN];
    image[..2].copy_from_slice(&[0x1f, 0x8b]);
    fs::write(&initrd, &image).expect("a temporary file");
    let release = Release::default();
    let mut config = crate::MachineConfig::new("test", kernel);
    config.memory.size_mib = 4;
    config.initrd = Some(initrd.clone());
    config.loading = crate::config::ImageLoading::Map;
    config.timeouts.vcpu = Duration::from_millis(10);
    let hypervisor = FakeHypervisor::new([vec![Scripted::Busy(release.clone())]]);
    let mut machine = crate::Machine::build_on(&hypervisor, &config).expect("a good configuration");
    machine.start().expect("new");
    release.wait_entered();
    let writer = std::thread::spawn(move || OpenOptions::new().write(true).open(&initrd).map(drop));
    // The first attempt to pause the guest fails.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!writer.is_finished(), "the guest still uses the file");
    release.open();
    writer.join().expect("no panic").expect("our own file");
    machine.stopper().stop();
    machine.shutdown().expect("everything leaves");
}
