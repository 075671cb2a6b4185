//! A guest decides how many files the host keeps open for it. This reserves the end of the process's table of
//! descriptors for the rest of the machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Number of calls between two checks of the table.
const EVERY: u32 = 16;
/// Bounds of the reserve, which is an eighth of the limit.
const RESERVE: (RawFd, RawFd) = (64, 4096);

/// The limit of descriptors for guests.
#[derive(Debug)]
pub struct Headroom {
    /// Too few descriptors are left if the lowest free one is not below this.
    ceiling: RawFd,
    calls: AtomicU32,
    full: AtomicBool,
}

impl Headroom {
    /// The headroom of a process that may have `limit` descriptors.
    pub fn new(limit: RawFd) -> Self {
        let reserve = (limit / 8).clamp(RESERVE.0, RESERVE.1);
        Self { ceiling: limit.saturating_sub(reserve), calls: AtomicU32::new(0), full: AtomicBool::new(false) }
    }

    /// Call before an operation that keeps a descriptor open. Duplicates `any`, an open one, to find the lowest free
    /// one.
    ///
    /// # Errors
    /// `ENFILE`: too few descriptors are left.
    pub fn check(&self, any: impl AsFd) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call.is_multiple_of(EVERY) || self.full.load(Ordering::Relaxed) {
            // The kernel gives the lowest free number, so all lower ones are in use.
            let lowest = any.as_fd().try_clone_to_owned();
            let room = lowest.is_ok_and(|fd| fd.as_raw_fd() < self.ceiling);
            self.full.store(!room, Ordering::Relaxed);
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_reserve_is_kept_for_every_limit() {
        for (limit, ceiling) in [(0, -64), (1024, 896), (20_000, 17_500), (1 << 20, (1 << 20) - 4096)] {
            assert_eq!(Headroom::new(limit).ceiling, ceiling);
        }
    }

    #[test]
    fn a_full_table_is_noticed_and_so_is_room() {
        let file = File::open("/").unwrap();
        let mut headroom = Headroom::new(RawFd::MAX);
        headroom.check(&file).unwrap();
        headroom.ceiling = 0;
        let refused = (0..EVERY).find_map(|_| headroom.check(&file).err()).unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
        assert!(headroom.check(&file).is_err());
        headroom.ceiling = RawFd::MAX;
        headroom.check(&file).unwrap();
    }
}
