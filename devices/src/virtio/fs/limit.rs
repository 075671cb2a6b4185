//! A guest decides how many files the host keeps open for it. This keeps it away from the end of the process's table of
//! descriptors, which the rest of the machine needs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Calls between two looks at the table.
const EVERY: u32 = 16;
/// Descriptors that are never given to guests: an eighth of the limit, in these bounds.
const RESERVE: (RawFd, RawFd) = (64, 4096);

/// Room for descriptors.
#[derive(Debug)]
pub struct Headroom {
    /// The process has too few left when the lowest free one is this.
    ceiling: RawFd,
    calls: AtomicU32,
    full: AtomicBool,
}

impl Headroom {
    /// For a process that may have `limit` descriptors.
    pub fn new(limit: RawFd) -> Self {
        let reserve = (limit / 8).clamp(RESERVE.0, RESERVE.1);
        Self { ceiling: limit.saturating_sub(reserve), calls: AtomicU32::new(0), full: AtomicBool::new(false) }
    }

    /// Asked before something that keeps a descriptor. `any` is an open one, to try with.
    ///
    /// # Errors
    /// `ENFILE`: too few are left.
    pub fn check(&self, any: impl AsFd) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call.is_multiple_of(EVERY) || self.full.load(Ordering::Relaxed) {
            // The kernel gives the lowest free number, so all below are taken.
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
    fn a_reserve_is_kept_whatever_the_limit_is() {
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
