//! Moments in the future, for any duration that a caller may give.

use std::time::{Duration, Instant};

/// Stands for a moment that the clock cannot express: a hundred years.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The end of a bounded wait.
#[derive(Debug)]
pub struct Deadline;

impl Deadline {
    /// The moment `timeout` from now. An addition panics for durations that the clock cannot express; this
    /// returns a moment a hundred years away.
    pub fn after(timeout: Duration) -> Instant {
        let now = Instant::now();
        now.checked_add(timeout).or_else(|| now.checked_add(FAR)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_duration_has_an_end() {
        let near = Deadline::after(Duration::from_secs(60));
        assert!(near > Instant::now());
        let day = Duration::from_secs(24 * 3600);
        for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(10_000_000_000_000_000_000)] {
            assert!(Deadline::after(timeout) > near + day, "{timeout:?}");
        }
        assert!(Deadline::after(Duration::ZERO) <= Instant::now());
    }
}
