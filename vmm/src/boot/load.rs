//! How an image comes into guest memory: copied, or mapped under a lease.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hutch_devices::GuestRam;

use super::lease::{LeaseError, Leases};
use super::pieces::Piece;
use super::place;
use crate::config::ImageLoading;
use crate::gate::Gate;

/// Brings images into the memory of one machine, and then keeps them as they are until it is dropped.
pub struct Loader {
    ram: GuestRam,
    loading: ImageLoading,
    leases: Leases,
}

impl Loader {
    /// Loads in the way of `loading`.
    pub fn new(ram: &GuestRam, loading: ImageLoading) -> Self {
        Self { ram: ram.clone(), loading, leases: Leases::new(ram.clone()) }
    }

    /// Tells how to hold the guest, which may run from now on.
    pub(crate) fn attach(&self, gate: Arc<Gate>) {
        self.leases.attach(gate);
    }

    /// Brings `pieces` of `file` into memory. `pays`: mapping is the faster way for this image.
    ///
    /// # Errors
    /// The file ends too early or cannot be read or mapped, or there is no such memory.
    pub fn load(&mut self, file: File, pieces: &[Piece], pays: bool) -> io::Result<()> {
        let ram = &self.ram;
        let copy = |file: &File| pieces.iter().try_for_each(|piece| place::copy(ram, file, *piece));
        let map = |file: &File| {
            let mapped: io::Result<Vec<_>> = pieces.iter().map(|piece| place::map(ram, file, *piece)).collect();
            Ok(mapped?.into_iter().flatten().collect())
        };
        if self.loading == ImageLoading::Copy || (self.loading == ImageLoading::Auto && !pays) {
            return copy(&file);
        }
        match self.leases.map(file, map) {
            Ok(()) => Ok(()),
            Err(LeaseError::Map(error)) => Err(error),
            Err(LeaseError::Refused { file, source }) if self.loading == ImageLoading::Auto => {
                log::debug!("an image is copied and not mapped, for there is no lease on it: {source}");
                copy(&file)
            }
            Err(LeaseError::Refused { file, source }) => {
                log::info!("an image is mapped without a lease and must not be changed: {source}");
                map(&file).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::ram;

    #[test]
    fn what_pays_is_mapped_where_there_is_a_lease_and_else_copied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("image");
        fs::write(&path, [7; 0x2000]).expect("a temporary file");
        let is_mapped = |loading, pays| {
            let ram = ram(4);
            let mut loader = Loader::new(&ram, loading);
            let piece = Piece { offset: 0, address: 0x10_0000, len: 0x2000 };
            loader.load(File::open(&path).expect("ours"), &[piece], pays).expect("loaded");
            let maps = fs::read_to_string("/proc/self/maps").expect("our own");
            maps.contains(path.to_str().expect("a plain name"))
        };
        use ImageLoading::{Auto, Copy, Map};
        let cases = [(Auto, true), (Auto, false), (Copy, true), (Map, false)];
        assert_eq!(cases.map(|(loading, pays)| is_mapped(loading, pays)), [true, false, false, true]);
        let writer = File::options().write(true).open(&path).expect("ours");
        assert_eq!(cases.map(|(loading, pays)| is_mapped(loading, pays)), [false, false, false, true]);
        drop(writer);
    }
}
