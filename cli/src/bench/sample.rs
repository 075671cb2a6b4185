//! One measured run, and the file that holds many.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::syscalls::SyscallCount;

/// Version of [`Results`] on disk.
pub const RESULTS_VERSION: u32 = 1;

/// What one run of a target gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Name of the target.
    pub target: String,
    /// Round it belongs to; warm-up rounds are not kept.
    pub round: u32,
    /// Nanoseconds from spawn to each mark.
    pub marks: BTreeMap<String, u64>,
    /// The guest's own clock at its first line, nanoseconds.
    #[serde(default)]
    pub guest_clock_ns: Option<u64>,
    /// Other figures: counts and sizes by name. Units are in the names.
    pub figures: BTreeMap<String, f64>,
}

/// A measurement as written by `--format json` and read by `--compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_VERSION`].
    pub version: u32,
    /// Program and version that measured.
    pub program: String,
    /// Host in brief: CPU model, kernel.
    pub host: BTreeMap<String, String>,
    /// Settings that all targets shared.
    pub settings: BTreeMap<String, String>,
    /// Kept samples in the order they ran.
    pub samples: Vec<Sample>,
    /// System calls of each target, counted once, apart from the samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SyscallCount>,
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

    /// Every series of numbers of `target`: marks and guest clock in milliseconds, figures as they are.
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
            let median = |s: &Series| super::stats::Summary::of(&s.values).map_or(0.0, |x| x.p50);
            a.kind.cmp(&b.kind).then_with(|| match a.kind {
                SeriesKind::Mark => median(a).total_cmp(&median(b)),
                SeriesKind::Figure => a.name.cmp(&b.name),
            })
        });
        all
    }
}

/// What a series measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeriesKind {
    /// Milliseconds since spawn.
    Mark,
    /// Anything else.
    Figure,
}

/// Values of one name over the rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Mark or figure.
    pub name: String,
    /// Which.
    pub kind: SeriesKind,
    /// In order of the rounds.
    pub values: Vec<f64>,
}
