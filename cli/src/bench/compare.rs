//! `hutch bench compare A.json B.json`: tests whether the difference between two measurements is real.

use std::fmt::Write;
use std::path::Path;

use super::sample::{Results, RESULTS_VERSION};
use super::stats::change;

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is not a result file of `hutch bench … --format json`: {source}")]
    Parse { path: String, source: serde_json::Error },
    #[error("{path} has version {version}, but this hutch reads version {RESULTS_VERSION}; measure again")]
    Version { path: String, version: u32 },
    #[error("the two files have no target in common")]
    NothingShared,
}

/// Reads a result file.
pub fn read(path: &Path) -> Result<Results, CompareError> {
    let name = path.display().to_string();
    let text = std::fs::read(path).map_err(|source| CompareError::Read { path: name.clone(), source })?;
    let results: Results =
        serde_json::from_slice(&text).map_err(|source| CompareError::Parse { path: name.clone(), source })?;
    if results.version != RESULTS_VERSION {
        return Err(CompareError::Version { path: name, version: results.version });
    }
    Ok(results)
}

/// A line per shared series: ratio of medians, its 95 % interval, and the verdict.
pub fn compare(before: &Results, after: &Results) -> Result<String, CompareError> {
    let mut out = String::new();
    for target in before.targets().into_iter().filter(|t| after.targets().contains(t)) {
        let _ = writeln!(out, "{target}");
        let later = after.series(target);
        for series in before.series(target) {
            let Some(other) = later.iter().find(|s| s.name == series.name) else { continue };
            let verdict = match change(&series.values, &other.values) {
                None => "too few samples, or a median of 0".to_owned(),
                Some(c) => format!(
                    "×{:.3}  [{:.3}, {:.3}]  {}",
                    c.ratio,
                    c.low,
                    c.high,
                    match (c.is_real(), c.ratio < 1.0) {
                        (false, _) => "no difference shown",
                        (true, true) => "lower",
                        (true, false) => "higher",
                    }
                ),
            };
            let _ = writeln!(out, "  {:<26}{verdict}", series.name);
        }
    }
    if out.is_empty() {
        return Err(CompareError::NothingShared);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;
    use super::*;

    fn results(target: &str, base: u64) -> Results {
        let samples = (0..10)
            .map(|i| Sample {
                target: target.into(),
                round: i,
                marks: [("init".to_owned(), base + u64::from(i % 3))].into(),
                ..Sample::default()
            })
            .collect();
        Results {
            version: RESULTS_VERSION,
            program: String::new(),
            host: Default::default(),
            settings: Default::default(),
            samples,
            syscalls: Vec::new(),
            dropped: Vec::new(),
        }
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let text = compare(&results("h", 100_000_000), &results("h", 80_000_000)).unwrap();
        assert!(text.contains("lower"), "{text}");
        let text = compare(&results("h", 100_000_000), &results("h", 100_000_000)).unwrap();
        assert!(text.contains("no difference shown"), "{text}");
        assert!(matches!(compare(&results("a", 1), &results("b", 1)), Err(CompareError::NothingShared)));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        assert!(matches!(read(&path), Err(CompareError::Read { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(read(&path), Err(CompareError::Parse { .. })));
        let mut other = results("h", 1);
        other.version += 1;
        std::fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(matches!(read(&path), Err(CompareError::Version { .. })));
    }
}
