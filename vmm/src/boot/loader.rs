//! Loads images into guest memory: copied, or mapped under a lease, or partly each, whichever is faster.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hutch_devices::GuestRam;

use super::file_pages;
use super::lease::{CopyLease, LeaseError, Leases};
use super::load_plan::{self, LoadPlan};
use super::segments::FileExtent;
use crate::arch::x86_64::memmap::GuestRange;
use crate::config::ImageLoading;
use crate::confine::ThreadRules;
use crate::run_control::RunControl;

/// Loads images into the memory of one machine, and keeps mapped pages unchanged until it is dropped.
pub struct Loader {
    ram: GuestRam,
    loading: ImageLoading,
    leases: Leases,
}

impl Loader {
    /// A loader that copies or maps as `loading` says.
    pub fn new(ram: &GuestRam, loading: ImageLoading) -> Self {
        Self { ram: ram.clone(), loading, leases: Leases::new(ram.clone()) }
    }

    /// Sets the rules for the thread that keeps leases.
    pub(crate) fn by(mut self, rules: ThreadRules) -> Self {
        self.leases.rules = rules;
        self
    }

    /// Hands over the means to pause the guest. From this call on the guest may run.
    pub(crate) fn attach(&self, control: Arc<RunControl>) {
        self.leases.attach(control);
    }

    /// Brings `extents` of `file` into memory. The guest will hardly touch the ranges in `cold`.
    ///
    /// # Errors
    /// The file ends too early or cannot be read or mapped, or an address is outside guest memory.
    pub fn load(&mut self, file: File, extents: &[FileExtent], cold: &[GuestRange]) -> io::Result<()> {
        let copied = || LoadPlan { copied: extents.into(), mapped: Vec::new() };
        let plan = match self.loading {
            ImageLoading::Copy => copied(),
            ImageLoading::Map => LoadPlan { copied: Vec::new(), mapped: extents.into() },
            ImageLoading::Auto => load_plan::plan(&file, extents, cold)?,
        };
        let ram = &self.ram;
        let bring = |file: &File, plan: &LoadPlan, leased: bool| {
            // Under the lease, if there is one: from then on no process can cut the file.
            file_pages::check_len(file, extents)?;
            let mapped: Vec<_> =
                plan.mapped.iter().map(|extent| file_pages::map(ram, file, *extent)).collect::<io::Result<_>>()?;
            // Copy after mapping: next to a file mapping the kernel cannot use a huge page, so it need not clear one.
            plan.copied.iter().try_for_each(|extent| file_pages::copy(ram, file, *extent, leased))?;
            Ok(mapped.into_iter().flatten().collect())
        };
        let bring_copies = |file: &File, plan: &LoadPlan| {
            // Small parts are read in any case.
            let lease = match file_pages::maps_to_copy(&plan.copied) {
                true => CopyLease::take(file)
                    .inspect_err(|error| log::debug!("an image is read, because it cannot be leased: {error}"))
                    .ok(),
                false => None,
            };
            bring(file, plan, lease.is_some()).map(drop)
        };
        if plan.mapped.is_empty() {
            return bring_copies(&file, &plan);
        }
        match self.leases.map(file, |file| bring(file, &plan, true)) {
            Ok(()) => Ok(()),
            Err(LeaseError::Map(error)) => Err(error),
            Err(LeaseError::Refused { file, source }) if self.loading == ImageLoading::Auto => {
                log::debug!("an image is copied as a whole, because it cannot be leased: {source}");
                bring_copies(&file, &copied())
            }
            Err(LeaseError::Refused { file, source }) => {
                log::info!("an image is mapped without a lease and must not be changed: {source}");
                bring(&file, &plan, false).map(drop)
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

    /// Such a file would raise SIGBUS and end this process if the copy touched its pages unprotected.
    #[test]
    fn a_file_that_is_cut_while_it_is_copied_is_an_error_or_a_copy() {
        const LEN: u64 = 1 << 20;
        const ROUNDS: usize = 300;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("image");
        fs::write(&path, vec![7; LEN as usize]).expect("a temporary file");
        for keep_open in [false, true] {
            let done = std::sync::atomic::AtomicBool::new(false);
            let open = || File::options().write(true).open(&path).expect("ours");
            let kept = keep_open.then(open);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for len in [0, LEN] {
                            match &kept {
                                Some(file) => file.set_len(len).expect("cut"),
                                None => open().set_len(len).expect("cut"),
                            }
                        }
                    }
                });
                let ram = ram(4);
                for _ in 0..ROUNDS {
                    let extent = FileExtent { offset: 0, address: 2 << 20, len: LEN };
                    let mut loader = Loader::new(&ram, ImageLoading::Copy);
                    match loader.load(File::open(&path).expect("ours"), &[extent], &[]) {
                        Ok(()) => (),
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
                    }
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
        }
    }

    #[test]
    fn filler_is_mapped_under_a_lease_and_else_copied() {
        const BLOCK: u64 = 2 << 20;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("image");
        let mut contents = vec![7; 2 * BLOCK as usize];
        contents[..BLOCK as usize].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        fs::write(&path, &contents).expect("a temporary file");
        let mapped = |loading| {
            let ram = ram(8);
            let mut loader = Loader::new(&ram, loading);
            let extent = FileExtent { offset: 0, address: 2 * BLOCK, len: 2 * BLOCK };
            loader.load(File::open(&path).expect("ours"), &[extent], &[]).expect("loaded");
            let mut there = vec![0; contents.len()];
            ram.read_slice(&mut there, GuestAddress(extent.address)).expect("in RAM");
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
            let too_long = FileExtent { offset: 0, address: 2 * BLOCK, len: 2 * BLOCK + 1 };
            let file = File::open(&path).expect("ours");
            assert!(Loader::new(&ram(8), loading).load(file, &[too_long], &[]).is_err(), "{loading:?}");
        }
        assert_eq!([Auto, Copy, Map].map(mapped), [BLOCK, 0, 2 * BLOCK]);
        let writer = File::options().write(true).open(&path).expect("ours");
        assert_eq!([Auto, Copy, Map].map(mapped), [0, 0, 2 * BLOCK]);
        drop(writer);
    }
}
