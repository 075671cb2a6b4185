//! Order statistics, and a test whether two sets of samples differ.

use serde::{Deserialize, Serialize};

/// A summary of measurements. All values have the unit of the input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub n: usize,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    /// (max − min) / median, in percent.
    pub spread_percent: f64,
}

impl Summary {
    /// Summarises `values`; `None` if it has no finite value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let p50 = percentile(&sorted, 50.0);
        let spread_percent = if p50 > 0.0 { (max - min) / p50 * 100.0 } else { 0.0 };
        Some(Self {
            n: sorted.len(),
            min,
            p50,
            p90: percentile(&sorted, 90.0),
            p99: percentile(&sorted, 99.0),
            max,
            spread_percent,
        })
    }
}

/// Percentile by linear interpolation between closest ranks. `sorted` must not be empty.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = percent / 100.0 * (sorted.len() - 1) as f64;
    let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (rank - low as f64)
}

/// The change from one set of samples to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Median of the second over median of the first.
    pub ratio: f64,
    /// Lower end of the ratio's 95 % confidence interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Change {
    /// Whether the interval excludes "no change".
    pub fn is_real(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

/// Number of resamples for a confidence interval.
const RESAMPLES: usize = 4000;

/// Compares the medians of two sets by bootstrap with a fixed seed, so that the same input gives the same result.
/// `None` if either has fewer than three values or a median of 0.
pub fn change(before: &[f64], after: &[f64]) -> Option<Change> {
    if before.len() < 3 || after.len() < 3 {
        return None;
    }
    let (a, b) = (Summary::of(before)?.p50, Summary::of(after)?.p50);
    if a <= 0.0 {
        return None;
    }
    let mut random = SplitMix(0x6875_7463_6800);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let (x, y) = (random.resampled_median(before)?, random.resampled_median(after)?);
            (x > 0.0).then(|| y / x)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    if ratios.is_empty() {
        return None;
    }
    Some(Change { ratio: b / a, low: percentile(&ratios, 2.5), high: percentile(&ratios, 97.5) })
}

/// SplitMix64: good enough for resampling, and the same on every platform.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn resampled_median(&mut self, values: &[f64]) -> Option<f64> {
        let draw: Vec<f64> = (0..values.len()).map(|_| values[(self.next() % values.len() as u64) as usize]).collect();
        Summary::of(&draw).map(|s| s.p50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.n, s.min, s.p50, s.max), (4, 1.0, 2.5, 4.0));
        assert!((s.p90 - 3.7).abs() < 1e-9, "{}", s.p90);
        assert!((s.spread_percent - 120.0).abs() < 1e-9);
        assert!(Summary::of(&[]).is_none());
        assert_eq!(Summary::of(&[7.0]).unwrap().p99, 7.0);
    }

    #[test]
    fn a_clear_change_is_real_and_noise_is_not() {
        let before: Vec<f64> = (0..20).map(|i| 100.0 + f64::from(i % 5)).collect();
        let faster: Vec<f64> = before.iter().map(|v| v * 0.8).collect();
        let change_down = change(&before, &faster).unwrap();
        assert!(change_down.is_real() && change_down.high < 0.9, "{change_down:?}");
        let noisy: Vec<f64> = before.iter().rev().copied().collect();
        assert!(!change(&before, &noisy).unwrap().is_real());
        assert!(change(&before[..2], &faster).is_none());
    }
}
