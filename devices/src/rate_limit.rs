//! Rate limit for log messages that a guest can trigger: a burst of [`BURST`] messages passes per [`INTERVAL`], and the
//! next message that passes says how many were dropped. Used from any thread through
//! [`warn_limited!`](crate::warn_limited).

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Messages that pass per interval.
pub const BURST: u32 = 8;
/// Time from the first message of a burst until the next burst may pass.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The limit of one place in the code.
#[derive(Debug)]
pub struct RateLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    passed: u32,
    dropped: u64,
}

impl RateLimit {
    /// A limit that has not seen a message.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { since: None, passed: 0, dropped: 0 }) }
    }

    /// `Some` if a message may be logged now, with the number of messages that were dropped before it.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.since {
            Some(since) if now.saturating_duration_since(since) < INTERVAL => {}
            _ => {
                state.since = Some(now);
                state.passed = 0;
            }
        }
        if state.passed < BURST {
            state.passed += 1;
            Some(std::mem::take(&mut state.dropped))
        } else {
            state.dropped = state.dropped.saturating_add(1);
            None
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// `log::warn!` with a rate limit for the place of the call.
#[macro_export]
macro_rules! warn_limited {
    ($($arg:tt)+) => {{
        static LIMIT: $crate::rate_limit::RateLimit = $crate::rate_limit::RateLimit::new();
        match LIMIT.pass() {
            Some(0) => log::warn!($($arg)+),
            Some(dropped) => log::warn!("{} ({dropped} more like this were dropped)", format_args!($($arg)+)),
            None => {}
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limit.pass_at(start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(limit.pass_at(start), None);
        }
        assert_eq!(limit.pass_at(start + INTERVAL), Some(5));
        assert_eq!(limit.pass_at(start + INTERVAL), Some(0));
    }
}
