//! The entropy device.

use hutch_devices::virtio::rng::Rng;

use crate::driver::{self, Device, Part};
use crate::script::Script;

struct Requests;

impl Device for Requests {
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        let parts = (0..=script.u8() % 4).map(|_| Part::Write(u32::from(script.u16() % 9000))).collect();
        (0, parts)
    }
}

/// Attacks the entropy device.
pub fn attack(data: &[u8]) {
    driver::run(Box::new(Rng::new("rng")), driver::memory(), &mut Requests, &mut Script::new(data));
}
