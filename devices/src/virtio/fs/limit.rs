//! A guest decides how many files the host keeps open for it. This reserves the end of the process's table of
//! descriptors for the rest of the machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

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

/// Descriptors that the shares of this process keep open to save work: they can be opened again.
static CACHED: AtomicUsize = AtomicUsize::new(0);
/// Bounds of what they may keep together, which is a quarter of the process's limit.
const CACHED_BOUNDS: (usize, usize) = (16, 8192);

/// The descriptors that one share keeps open, of those that all shares may keep.
#[derive(Debug)]
pub struct Budget {
    taken: usize,
    all: &'static AtomicUsize,
    limit: usize,
}

impl Budget {
    /// The budget of a share in a process that may have `limit` descriptors.
    pub fn new(limit: RawFd) -> Self {
        let limit = usize::try_from(limit / 4).unwrap_or(0).clamp(CACHED_BOUNDS.0, CACHED_BOUNDS.1);
        Self { taken: 0, all: &CACHED, limit }
    }

    /// A budget of `limit` descriptors that no other share has a part of.
    #[cfg(test)]
    pub fn alone(limit: usize) -> Self {
        Self { taken: 0, all: Box::leak(Box::new(AtomicUsize::new(0))), limit }
    }

    /// Takes one descriptor, if there is room. A descriptor that cannot be opened again may exceed the limit, up to
    /// twice as many.
    pub fn take(&mut self, necessary: bool) -> bool {
        let limit = if necessary { self.limit.saturating_mul(2) } else { self.limit };
        let one_more = |all: usize| (all < limit).then_some(all + 1);
        let taken = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        self.taken += usize::from(taken);
        taken
    }

    /// A descriptor was closed.
    pub fn closed_one(&mut self) {
        if let Some(taken) = self.taken.checked_sub(1) {
            self.taken = taken;
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All descriptors of the share were closed.
    pub fn clear(&mut self) {
        self.all.fetch_sub(std::mem::take(&mut self.taken), Ordering::Relaxed);
    }

    /// Number of descriptors that the share has taken.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.clear();
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
    fn shares_have_one_budget_together_and_give_it_back() {
        let mut first = Budget::alone(3);
        let mut second = Budget { taken: 0, all: first.all, limit: 3 };
        assert!(first.take(false) && first.take(false) && second.take(false));
        assert!(!first.take(false) && !second.take(false));
        assert!((0..3).all(|_| second.take(true)) && !second.take(true));
        first.closed_one();
        drop(second);
        assert!(first.take(false) && first.take(false) && !first.take(false));
        assert_eq!((first.taken(), first.all.load(Ordering::Relaxed)), (3, 3));
        for (limit, budget) in [(0, 16), (1500, 375), (1 << 20, 8192)] {
            assert_eq!(Budget::new(limit).limit, budget);
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
