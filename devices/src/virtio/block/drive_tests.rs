use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::irq::Interrupt;

const TEST_TIMEOUT: Duration = Duration::from_secs(300);

fn slot() -> (Arc<Drive>, BlockSlot, tempfile::TempDir) {
    let drive = Arc::new(Drive::new(None));
    (drive.clone(), BlockSlot::new(drive), tempfile::tempdir().unwrap())
}

fn image(dir: &tempfile::TempDir, name: &str, sectors: u64) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().set_len(sectors * 512).unwrap();
    path
}

/// A request that its storage does not answer blocks no other caller.
#[test]
fn a_request_that_hangs_delays_the_end_of_its_image_only() {
    let (drive, slot, dir) = slot();
    let (first, second) = (image(&dir, "first", 8), image(&dir, "second", 4));
    slot.insert(&first, false, "a").unwrap();
    let hung = drive.medium();
    assert!(!slot.eject_within(Duration::from_millis(1)));
    assert_eq!(drive.disk().sectors, 0);
    assert!(drive.medium().get().is_none(), "a later request finds no image");
    // The request goes on with the image that it was checked against, which stays locked.
    assert_eq!(hung.get().unwrap().backend.disk().sectors, 8);
    assert!(matches!(slot.insert(&first, false, "a"), Err(BlockError::InUse { .. })));
    slot.insert(&second, false, "b").unwrap();
    assert_eq!((drive.disk().sectors, drive.medium().get().is_some()), (4, true));
    assert!(!slot.wait_closed(Duration::from_millis(1)));
    let waiter = std::thread::spawn({
        let slot = slot.clone();
        move || slot.wait_closed(TEST_TIMEOUT)
    });
    drop(hung);
    assert!(waiter.join().unwrap());
    assert!(slot.eject_within(TEST_TIMEOUT));
    slot.insert(&first, false, "a").unwrap();
}

/// A driver that reads configuration space takes the same lock: it cannot see the new capacity and the old generation,
/// or the reverse, on both sides of a read.
#[test]
fn image_and_generation_change_under_one_lock() {
    struct Observer(Arc<Drive>, Arc<AtomicUsize>);
    impl Interrupt for Observer {
        fn trigger(&self) -> io::Result<()> {
            assert!(self.0.state.try_lock().is_err(), "configuration space can be read");
            self.1.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    let (drive, slot, dir) = slot();
    let count = Arc::new(AtomicUsize::new(0));
    let interrupt = Arc::new(DeviceInterrupt::new(Box::new(Observer(drive.clone(), count.clone()))));
    drive.set_interrupt(Some(interrupt.clone()));
    slot.insert(&image(&dir, "image", 8), false, "a").unwrap();
    slot.eject();
    slot.eject();
    assert_eq!((count.load(Ordering::SeqCst), interrupt.generation()), (2, 2));
}
