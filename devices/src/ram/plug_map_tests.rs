use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::TestRam;

const BLOCK: u64 = TestRam::BLOCK;

fn map() -> Arc<PlugMap> {
    Arc::new(PlugMap::new(8 * BLOCK, 4 * BLOCK, BLOCK))
}

#[test]
fn a_block_in_use_stays_plugged_in() {
    let map = map();
    map.plug(1..4);
    let mut pins = Pins::new();
    pins.add(&map, 9 * BLOCK + 5, BLOCK).expect("two plugged blocks");
    assert!(!map.unplug(1..2) && !map.unplug(2..4) && !map.unplug(1..4));
    assert!([1, 2, 3].iter().all(|block| map.is_plugged(*block)), "all or nothing");
    assert!(map.unplug(3..4));
    let copy = pins.clone();
    drop(pins);
    assert!(!map.unplug(1..3), "the copy uses them too");
    drop(copy);
    assert!(map.unplug(1..3));
    assert!((0..4).all(|block| !map.is_plugged(block)));
}

#[test]
fn a_range_with_a_part_that_is_not_plugged_in_cannot_be_pinned() {
    let map = map();
    map.plug(1..2);
    for (addr, len, good) in [
        (0, 8 * BLOCK, true),
        (0, 8 * BLOCK + 1, false),
        (9 * BLOCK, BLOCK, true),
        (9 * BLOCK - 1, 2, false),
        (10 * BLOCK - 1, 1, true),
        (10 * BLOCK - 1, 2, false),
        (12 * BLOCK, u64::MAX, true),
        (11 * BLOCK, u64::MAX, false),
        (u64::MAX, u64::MAX, true),
        (8 * BLOCK, 0, true),
    ] {
        assert_eq!(Pins::new().add(&map, addr, len).is_ok(), good, "{len:#x} bytes at {addr:#x}");
        assert_eq!(map.blocks[1].load(Ordering::Relaxed), UNUSED, "no user is left");
    }
    assert!(map.is_unplugged(8 * BLOCK) && !map.is_unplugged(9 * BLOCK) && !map.is_unplugged(12 * BLOCK));
}

#[test]
fn a_view_reads_what_is_plugged_in_and_keeps_it_so() {
    let ram = TestRam::pluggable();
    let (shared, map) = (ram.share(), ram.plug_map());
    map.plug(0..2);
    let border = GuestAddress(map.addr() + 2 * BLOCK);
    let inside = GuestAddress(border.0 - 8);
    let view = shared.view();
    view.write_obj(7u64, inside).expect("plugged in");
    assert_eq!(view.read_obj::<u64>(inside).expect("plugged in"), 7);
    assert_eq!(view.load::<u64>(inside, Ordering::Relaxed).expect("plugged in"), 7);
    view.store(8u64, inside, Ordering::Relaxed).expect("plugged in");
    view.read_obj::<u64>(GuestAddress(border.0 - 4)).expect_err("half of it is not plugged in");
    view.load::<u16>(border, Ordering::Relaxed).expect_err("not plugged in");
    view.write_obj(1u8, border).expect_err("not plugged in");
    view.read_obj::<u64>(TestRam::BORDER).expect("memory that is always there");
    assert!(map.unplug(0..1), "not accessed");
    assert!(!map.unplug(1..2), "accessed");
    drop(view);
    assert!(map.unplug(1..2));
}

/// The order that protects a device: a pinned block is not unplugged, an unplugged block is not pinned.
#[test]
fn users_and_the_unplugging_thread_exclude_each_other() {
    let map = map();
    let accessible = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut pins = Pins::new();
                    if pins.add(&map, 8 * BLOCK, 1).is_ok() {
                        assert!(accessible.load(Ordering::SeqCst));
                    }
                }
            });
        }
        for _ in 0..20_000 {
            accessible.store(true, Ordering::SeqCst);
            map.plug(0..1);
            while !map.unplug(0..1) {
                std::hint::spin_loop();
            }
            accessible.store(false, Ordering::SeqCst);
        }
        done.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #[test]
    fn pins_never_leak(steps in prop::collection::vec((0..2u8, 0..16u64, 0..6u64, 0..4usize), 0..60)) {
        let map = map();
        let mut held: Vec<Pins> = Vec::new();
        for (kind, at, len, block) in steps {
            if kind == 0 {
                let mut pins = Pins::new();
                if pins.add(&map, at * BLOCK, len * BLOCK).is_ok() {
                    held.push(pins);
                }
            } else if map.is_plugged(block) {
                let _ = map.unplug(block..block + 1);
            } else {
                map.plug(block..block + 1);
            }
            if held.len() > 5 {
                held.remove(0);
            }
        }
        held.clear();
        prop_assert!(map.blocks.iter().all(|block| block.load(Ordering::Relaxed) <= UNUSED));
    }
}
