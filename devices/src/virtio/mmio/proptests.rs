//! Random walks over the registers by a driver that makes every mistake. Checks the invariants of the status machine.

use proptest::prelude::*;

use super::reg::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use super::tests::{Events, Probe};
use super::*;
use crate::testing::Driver;

/// One access.
#[derive(Clone, Debug)]
enum Access {
    /// A write to an existing register, often with a meaningful value.
    Register(u64, u32),
    /// A write to any offset, of any width.
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Pause,
    /// A complete start, so that walks reach states that random writes seldom reach.
    Start,
}

fn register() -> impl Strategy<Value = (u64, u32)> {
    let value = prop_oneof![
        0..4u32,
        Just(status::ACKNOWLEDGE | DRIVER),
        Just(ACKNOWLEDGE | DRIVER | FEATURES_OK),
        Just(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK),
        (0..32u32).prop_map(|bit| 1 << bit),
        (0..0x10u32).prop_map(|page| page << 12),
        any::<u32>(),
    ];
    ((0..0x40u64).prop_map(|word| word * 4), value)
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        12 => register().prop_map(|(register, value)| Access::Register(register, value)),
        2 => (0..0x1000u64, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, data)| Access::Write(at, data)),
        2 => (0..0x1000u64, 0..9usize).prop_map(|(at, len)| Access::Read(at, len)),
        1 => Just(Access::Pause),
        1 => Just(Access::Start),
    ]
}

fn check(driver: &Driver, before: u32, access: &Access) {
    let now = driver.status() & !NEEDS_RESET;
    let state = driver.transport.lock();
    if now != 0 {
        assert_eq!(before & !now, 0, "only a reset clears status bits: {access:?}");
    }
    let order = [(DRIVER, ACKNOWLEDGE), (FEATURES_OK, DRIVER), (DRIVER_OK, FEATURES_OK)];
    assert!(order.iter().all(|(bit, after)| now & bit == 0 || now & after != 0), "{now:#x} after {access:?}");
    if now & FEATURES_OK != 0 {
        assert_eq!(state.driver_features & !state.offered, 0);
        assert_ne!(state.driver_features & 1 << VIRTIO_F_VERSION_1, 0);
        assert!(state.device.accepts_features(state.driver_features));
    }
    assert!(!state.active || now & DRIVER_OK != 0);
    for queue in state.queues.iter().filter(|queue| queue.ready) {
        assert!(now & FEATURES_OK != 0 && queue.build(&driver.transport.mem, true).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The probe itself panics when it is activated twice or deactivated while inactive.
    #[test]
    fn the_status_machine_holds_under_random_accesses(walk in prop::collection::vec(access(), 1..80)) {
        let mut driver = Driver::new(Probe::boxed(&Events::default()));
        for access in walk {
            let before = driver.status() & !NEEDS_RESET;
            match &access {
                Access::Register(register, value) => driver.write(*register, *value),
                Access::Write(offset, data) => driver.transport.write(*offset, data),
                Access::Read(offset, len) => driver.transport.read(*offset, &mut vec![0; *len]),
                Access::Pause => {
                    driver.transport.device_pause().unwrap();
                    driver.transport.device_resume();
                }
                Access::Start => driver.start(0),
            }
            if !matches!(access, Access::Start) {
                check(&driver, before, &access);
            }
        }
    }
}
