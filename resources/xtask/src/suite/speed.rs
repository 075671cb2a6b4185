//! Measures how fast this machine runs at present, so that time limits of tests follow it.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Steps of the measured loop: a tenth of a second on an idle machine.
const STEPS: u64 = 10_000_000;

/// Time of the loop on the machine that runs CI while it does nothing else. (This program is built without optimisation.)
const USUAL: Duration = Duration::from_millis(100);

/// Greatest factor: a hang must end some time on any machine.
const MOST: f64 = 20.0;

/// How many times as long this machine takes as an idle one that runs CI, at least once.
pub(crate) fn slowness() -> f64 {
    // The median of five: one alone may fall between two turns of another process, or wait for one.
    let mut times = [(); 5].map(|()| measure());
    times.sort();
    factor(times[2])
}

fn factor(time: Duration) -> f64 {
    (time.as_secs_f64() / USUAL.as_secs_f64()).clamp(1.0, MOST)
}

fn measure() -> Duration {
    let begin = Instant::now();
    let mut state = 1_u64;
    for _ in 0..STEPS {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x1405_7b7e;
    }
    black_box(state);
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_gets_more_time_and_none_gets_less_or_no_end() {
        assert_eq!(factor(USUAL / 2), 1.0);
        assert_eq!(factor(USUAL * 5), 5.0);
        assert_eq!(factor(USUAL * 1000), MOST);
    }

    #[test]
    fn the_loop_is_not_optimised_away() {
        assert!(measure() > Duration::from_micros(100));
    }
}
