//! Bounds what an agent may send without having been asked: events, log lines, answers that no caller waits for. Used by
//! the reader thread of a session.
//!
//! Each of them costs the host time, and a guest that was taken over could send them without end. A bucket holds units; a
//! frame takes one for itself and one for each 16 KiB; the bucket refills with time.

use std::time::{Duration, Instant};

use super::error::ChannelDeath;

/// Units that refill in a second. An honest agent sends an event for each process that ends.
pub(super) const UNITS_PER_SECOND: u64 = 1024;
/// Units in a full bucket.
pub(super) const BURST: u64 = 32 << 10;
/// Bytes of a frame for one more unit.
const UNIT: usize = 16 << 10;

/// The bucket of one session.
pub(super) struct Quota {
    burst: u64,
    /// Units that refill in a second.
    rate: u64,
    units: u64,
    filled: Instant,
}

impl Quota {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self::of(BURST, UNITS_PER_SECOND, now)
    }

    /// A full bucket of `burst` units, of which `rate` refill in a second.
    pub(super) fn of(burst: u64, rate: u64, now: Instant) -> Self {
        Self { burst, rate, units: burst, filled: now }
    }

    /// Takes the units for a frame with a payload of `bytes`.
    ///
    /// # Errors
    /// [`ChannelDeath::Flood`] if there are not enough.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> Result<(), ChannelDeath> {
        let cost = 1 + (bytes / UNIT) as u64;
        if self.units < cost {
            self.refill(now);
        }
        match self.units.checked_sub(cost) {
            Some(left) => {
                self.units = left;
                Ok(())
            }
            None => Err(ChannelDeath::Flood),
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let more = passed.as_millis().saturating_mul(self.rate.into()) / 1000;
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        // A fraction of a unit stays in the clock.
        self.filled += Duration::from_millis(more.min(self.burst) * 1000 / self.rate);
        self.units = self.units.saturating_add(more).min(self.burst);
        if self.units == self.burst {
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_takes_a_burst_and_then_what_refills() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        (0..BURST).for_each(|_| quota.take(100, start).unwrap());
        assert!(matches!(quota.take(100, start), Err(ChannelDeath::Flood)));
        let later = start + Duration::from_secs(2);
        (0..2 * UNITS_PER_SECOND).for_each(|_| quota.take(100, later).unwrap());
        quota.take(100, later).unwrap_err();
        let much_later = start + Duration::from_secs(1 << 40);
        (0..BURST).for_each(|_| quota.take(100, much_later).unwrap());
        quota.take(100, much_later).unwrap_err();
        // A clock that stands still, or goes back, refills nothing.
        quota.take(100, start).unwrap_err();
    }

    #[test]
    fn an_honest_rate_never_ends_a_session() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            (0..UNITS_PER_SECOND).for_each(|_| quota.take(100, now).unwrap());
        }
    }

    #[test]
    fn large_frames_count_for_more() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        let frames = (0..).take_while(|_| quota.take(4 << 20, start).is_ok()).count();
        assert_eq!(frames as u64, BURST / 257);
    }
}
