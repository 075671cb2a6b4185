//! One measured run, and the file that holds many.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stats::Summary;

/// Version of [`Results`] on disk.
pub const RESULTS_VERSION: u32 = 1;

/// The result of one run of a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Name of the target.
    pub target: String,
    /// Number of the round; warm-up rounds are not kept.
    pub round: u32,
    /// Nanoseconds from spawn to each mark.
    pub marks: BTreeMap<String, u64>,
    /// The guest's own clock at its first line, nanoseconds.
    #[serde(default)]
    pub guest_clock_ns: Option<u64>,
    /// Other values: counts and sizes by name. The names include the units.
    pub figures: BTreeMap<String, f64>,
}

/// A measurement, as `--format json` writes it and `--compare` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub version: u32,
    /// Name and version of the program that measured.
    pub program: String,
    /// CPU model and kernel of the host.
    pub host: BTreeMap<String, String>,
    /// Settings that all targets shared.
    pub settings: BTreeMap<String, String>,
    /// Kept samples, in the order of the runs.
    pub samples: Vec<Sample>,
    /// System calls of each target, counted in separate runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SyscallCount>,
    /// Runs without a result, because the target did not get to its event in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<DroppedRun>,
}

/// A run that took too long. It has no sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRun {
    /// Name of the target.
    pub target: String,
    /// The round, in words.
    pub round: String,
    /// The event that was waited for, and for how long.
    pub what: String,
}

impl Results {
    /// Names of targets in order of appearance.
    pub fn targets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !names.contains(&sample.target.as_str()) {
                names.push(&sample.target);
            }
        }
        names
    }

    /// Every series of numbers of `target`: marks and guest clock in milliseconds, other values unchanged.
    pub fn series(&self, target: &str) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        let mut push = |name: String, kind: SeriesKind, value: f64| match all.iter_mut().find(|s| s.name == name) {
            Some(series) => series.values.push(value),
            None => all.push(Series { name, kind, values: vec![value] }),
        };
        for sample in self.samples.iter().filter(|s| s.target == target) {
            for (name, ns) in &sample.marks {
                push(name.clone(), SeriesKind::Mark, *ns as f64 / 1e6);
            }
            if let Some(ns) = sample.guest_clock_ns {
                push("guest_clock".into(), SeriesKind::Figure, ns as f64 / 1e6);
                if let Some(init) = sample.marks.get("init") {
                    push("vmm_share".into(), SeriesKind::Figure, init.saturating_sub(ns) as f64 / 1e6);
                }
            }
            for (name, value) in &sample.figures {
                push(name.clone(), SeriesKind::Figure, *value);
            }
        }
        all.sort_by(|a, b| {
            let median = |s: &Series| Summary::of(&s.values).map_or(0.0, |x| x.p50);
            a.kind.cmp(&b.kind).then_with(|| match a.kind {
                SeriesKind::Mark => median(a).total_cmp(&median(b)),
                SeriesKind::Figure => a.name.cmp(&b.name),
            })
        });
        all
    }
}

/// The kind of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeriesKind {
    /// Milliseconds since spawn.
    Mark,
    /// Any other value.
    Figure,
}

/// Values of one name over the rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name of the mark or value.
    pub name: String,
    pub kind: SeriesKind,
    /// In order of the rounds.
    pub values: Vec<f64>,
}

/// The system calls of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallCount {
    /// Name of the target.
    pub target: String,
    /// Number of all calls, up to the guest's first line or to the program's end.
    pub total: u64,
    pub by_name: BTreeMap<String, u64>,
}

impl SyscallCount {
    /// The `n` most frequent calls, most frequent first.
    pub fn most_frequent(&self, n: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> = self.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.truncate(n);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first() {
        let by_name = [("a", 1), ("b", 9), ("c", 5)].map(|(name, n)| (name.to_owned(), n)).into();
        let count = SyscallCount { target: String::new(), total: 15, by_name };
        assert_eq!(count.most_frequent(2), [("b", 9), ("c", 5)]);
    }
}
