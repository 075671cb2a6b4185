//! Results as a table for people, CSV for spreadsheets, JSON for [`super::compare`].

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::sample::{Results, SeriesKind};
use super::stats::Summary;
use crate::args::bench::Format;
use crate::failure::Failure;

/// Number of system calls that the table names for each target.
const FREQUENT: usize = 12;

/// Prints results in the chosen format.
pub fn print(results: &Results, format: Format) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(results),
        Format::Csv => csv(results),
        Format::Json => serde_json::to_string_pretty(results)? + "\n",
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// A table: a block per target, and the ratios of the medians to the first target's.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    let facts = results.host.iter().chain(&results.settings);
    let _ = writeln!(out, "{}", facts.map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join("; "));
    for target in results.targets() {
        let _ = writeln!(
            out,
            "\n{target:<28}{:>5}{:>10}{:>10}{:>10}{:>10}{:>10}{:>9}",
            "n", "min", "p50", "p90", "p99", "max", "spread"
        );
        for series in results.series(target) {
            let Some(s) = Summary::of(&series.values) else { continue };
            let name = match series.kind {
                SeriesKind::Mark => format!("{} (ms)", series.name),
                SeriesKind::Figure => series.name,
            };
            let _ = writeln!(
                out,
                "  {name:<26}{:>5}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8.1}%",
                s.n,
                number(s.min),
                number(s.p50),
                number(s.p90),
                number(s.p99),
                number(s.max),
                s.spread_percent
            );
        }
    }
    for count in &results.syscalls {
        let _ = writeln!(
            out,
            "\nsystem calls of {}, counted in a separate run under ptrace: {}",
            count.target, count.total
        );
        let names = count.most_frequent(FREQUENT).into_iter().map(|(name, n)| format!("{name} {n}"));
        let _ = writeln!(out, "  {}", names.collect::<Vec<_>>().join(", "));
    }
    out.push_str(&ratios(results));
    if !results.dropped.is_empty() {
        let _ = writeln!(out, "\n{} runs were dropped, because they took too long", results.dropped.len());
    }
    for run in &results.dropped {
        let _ = writeln!(out, "  {}, {}: {}", run.target, run.round, run.what);
    }
    out
}

/// The first target's median of every mark, as a ratio to that of each other target with the same mark.
fn ratios(results: &Results) -> String {
    let targets = results.targets();
    let Some((first, others)) = targets.split_first() else { return String::new() };
    let mut out = String::new();
    let base = results.series(first);
    for other in others {
        for series in results.series(other) {
            let same = base.iter().find(|b| b.name == series.name && b.kind == SeriesKind::Mark);
            let (Some(a), Some(b)) = (same.and_then(|b| Summary::of(&b.values)), Summary::of(&series.values)) else {
                continue;
            };
            if b.p50 > 0.0 {
                let _ = writeln!(out, "  {:<26}{first} takes {:.2} of {other}", series.name, a.p50 / b.p50);
            }
        }
    }
    if out.is_empty() {
        out
    } else {
        format!("\nratios of medians\n{out}")
    }
}

/// One line per target, round and name; marks in milliseconds. Counts of system calls have no round.
pub fn csv(results: &Results) -> String {
    let mut out = String::from("target,round,name,value\n");
    for sample in &results.samples {
        let mut line = |name: &str, value: f64| {
            let quoted = sample.target.replace('"', "\"\"");
            let _ = writeln!(out, "\"{quoted}\",{},{name},{value}", sample.round);
        };
        for (name, ns) in &sample.marks {
            line(&format!("{name}_ms"), *ns as f64 / 1e6);
        }
        if let Some(ns) = sample.guest_clock_ns {
            line("guest_clock_ms", ns as f64 / 1e6);
        }
        for (name, value) in &sample.figures {
            line(name, *value);
        }
    }
    for count in &results.syscalls {
        let quoted = count.target.replace('"', "\"\"");
        let _ = writeln!(out, "\"{quoted}\",,syscalls,{}", count.total);
        for (name, n) in &count.by_name {
            let _ = writeln!(out, "\"{quoted}\",,syscalls_{name},{n}");
        }
    }
    out
}

/// Two decimals for small numbers, none for large ones.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{DroppedRun, Sample, SyscallCount, RESULTS_VERSION};
    use super::*;

    fn results() -> Results {
        let sample = |target: &str, round, init: u64| Sample {
            target: target.into(),
            round,
            marks: [("init".to_owned(), init * 1_000_000)].into(),
            guest_clock_ns: Some(init * 500_000),
            figures: [("kvm_exits".to_owned(), 1000.0)].into(),
        };
        Results {
            version: RESULTS_VERSION,
            program: "hutch".into(),
            host: [("cpu".to_owned(), "x".to_owned())].into(),
            settings: Default::default(),
            samples: vec![
                sample("hutch", 0, 100),
                sample("qemu", 0, 200),
                sample("hutch", 1, 110),
                sample("qemu", 1, 220),
            ],
            syscalls: vec![SyscallCount {
                target: "qemu".into(),
                total: 120,
                by_name: [("ioctl".to_owned(), 100), ("mmap".to_owned(), 20)].into(),
            }],
            dropped: Vec::new(),
        }
    }

    #[test]
    fn dropped_runs_are_counted_and_named() {
        assert!(!table(&results()).contains("dropped"));
        let run = DroppedRun { target: "qemu".into(), round: "round 4".into(), what: "no output line".into() };
        let text = table(&Results { dropped: vec![run], ..results() });
        assert!(text.ends_with("\n1 runs were dropped, because they took too long\n  qemu, round 4: no output line\n"));
    }

    #[test]
    fn the_table_has_all_series_and_the_ratio() {
        let text = table(&results());
        for part in [
            "init (ms)",
            "guest_clock",
            "vmm_share",
            "kvm_exits",
            "hutch takes 0.50 of qemu",
            "ptrace: 120\n  ioctl 100, mmap 20",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn csv_has_a_line_per_value() {
        let text = csv(&results());
        assert_eq!(text.lines().count(), 1 + 4 * 3 + 3);
        assert!(text.contains("\"qemu\",1,init_ms,220"), "{text}");
        assert!(text.ends_with("\"qemu\",,syscalls,120\n\"qemu\",,syscalls_ioctl,100\n\"qemu\",,syscalls_mmap,20\n"));
    }
}
