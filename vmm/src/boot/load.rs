//! How an image comes into guest memory: copied, or mapped under a lease, or both, each where it is faster.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hutch_devices::GuestRam;

use super::cold::{self, Plan};
use super::lease::{LeaseError, Leases};
use super::pieces::Piece;
use super::place;
use crate::arch::x86_64::memmap::Range;
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

    /// Brings `pieces` of `file` into memory; of what is `cold` the guest will hardly touch any.
    ///
    /// # Errors
    /// The file ends too early or cannot be read or mapped, or there is no such memory.
    pub fn load(&mut self, file: File, pieces: &[Piece], cold: &[Range]) -> io::Result<()> {
        let copied = || Plan { copied: pieces.into(), mapped: Vec::new() };
        let plan = match self.loading {
            ImageLoading::Copy => copied(),
            ImageLoading::Map => Plan { copied: Vec::new(), mapped: pieces.into() },
            ImageLoading::Auto => cold::plan(&file, pieces, cold)?,
        };
        let ram = &self.ram;
        let bring = |file: &File, plan: &Plan| {
            // Under the lease, if there is one: nobody cuts the file any more.
            place::check_len(file, pieces)?;
            let mapped: Vec<_> =
                plan.mapped.iter().map(|piece| place::map(ram, file, *piece)).collect::<io::Result<_>>()?;
            // Afterwards: beside a mapping there are no huge pages to be cleared.
            plan.copied.iter().try_for_each(|piece| place::copy(ram, file, *piece))?;
            Ok(mapped.into_iter().flatten().collect())
        };
        if plan.mapped.is_empty() {
            return bring(&file, &plan).map(drop);
        }
        match self.leases.map(file, |file| bring(file, &plan)) {
            Ok(()) => Ok(()),
            Err(LeaseError::Map(error)) => Err(error),
            Err(LeaseError::Refused { file, source }) if self.loading == ImageLoading::Auto => {
                log::debug!("an image is copied as a whole, for there is no lease on it: {source}");
                bring(&file, &copied()).map(drop)
            }
            Err(LeaseError::Refused { file, source }) => {
                log::info!("an image is mapped without a lease and must not be changed: {source}");
                bring(&file, &plan).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::testing::ram;

    #[test]
    fn filler_is_mapped_where_there_is_a_lease_and_else_copied() {
        const BLOCK: u64 = 2 << 20;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("image");
        let mut contents = vec![7; 2 * BLOCK as usize];
        contents[..BLOCK as usize].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        fs::write(&path, &contents).expect("a temporary file");
        let mapped = |loading| {
            let ram = ram(8);
            let mut loader = Loader::new(&ram, loading);
            let piece = Piece { offset: 0, address: 2 * BLOCK, len: 2 * BLOCK };
            loader.load(File::open(&path).expect("ours"), &[piece], &[]).expect("loaded");
            let mut there = vec![0; contents.len()];
            ram.read_slice(&mut there, GuestAddress(piece.address)).expect("in RAM");
            assert!(there == contents, "{loading:?}");
            let maps = fs::read_to_string("/proc/self/maps").expect("our own");
            let lengths = maps.lines().filter(|line| line.contains(path.to_str().expect("a plain name"))).map(|line| {
                let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
                let address = |hex| u64::from_str_radix(hex, 16).expect("an address");
                address(end) - address(start)
            });
            lengths.sum::<u64>()
        };
        use ImageLoading::{Auto, Copy, Map};
        for loading in [Auto, Copy, Map] {
            let too_long = Piece { offset: 0, address: 2 * BLOCK, len: 2 * BLOCK + 1 };
            let file = File::open(&path).expect("ours");
            assert!(Loader::new(&ram(8), loading).load(file, &[too_long], &[]).is_err(), "{loading:?}");
        }
        assert_eq!([Auto, Copy, Map].map(mapped), [BLOCK, 0, 2 * BLOCK]);
        let writer = File::options().write(true).open(&path).expect("ours");
        assert_eq!([Auto, Copy, Map].map(mapped), [0, 0, 2 * BLOCK]);
        drop(writer);
    }
}
