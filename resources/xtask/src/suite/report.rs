//! Collects the results of a run and prints its closing lines.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::libtest::Counts;

/// How a test binary's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// With exit code 0.
    Good,
    /// With libtest's code for failed tests, 101.
    Failures,
    /// With a crash, a failed start or a timeout, described in words.
    Bad(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    name: String,
    counts: Counts,
    trouble: Option<String>,
    seconds: f64,
}

/// Results so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    lines: Vec<Line>,
    /// The steps of the run and the beginning of each, for the closing table.
    #[serde(skip)]
    steps: Vec<(&'static str, Instant)>,
}

impl Report {
    /// Begins a step of the run, which ends where the next begins.
    pub(crate) fn step(&mut self, name: &'static str) {
        self.steps.push((name, Instant::now()));
    }

    /// Adds a test binary. `counts` come from its closing line; `None` if it printed none.
    ///
    /// A binary that ended badly, or whose exit code contradicts its closing line, counts as one more failure. Otherwise a
    /// crash could pass for success.
    pub(crate) fn binary(&mut self, name: &str, counts: Option<Counts>, end: End, time: Duration) {
        let trouble = match (&end, counts) {
            (End::Bad(why), _) => Some(why.clone()),
            (_, None) => Some("it ended without a closing line".to_owned()),
            (End::Good, Some(counts)) if counts.failed > 0 => Some("it hid failures behind exit code 0".to_owned()),
            (End::Failures, Some(counts)) if counts.failed == 0 => Some("it failed without a failed test".to_owned()),
            _ => None,
        };
        let mut counts = counts.unwrap_or_default();
        counts.failed += u64::from(trouble.is_some());
        self.lines.push(Line { name: name.to_owned(), counts, trouble, seconds: time.as_secs_f64() });
    }

    /// Adds a check outside of test binaries; it counts as one test.
    pub(crate) fn check(&mut self, name: &str, passed: bool, time: Duration) {
        let counts = Counts { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 };
        self.lines.push(Line { name: format!("check {name}"), counts, trouble: None, seconds: time.as_secs_f64() });
    }

    /// Adds tests that cannot run here, and prints the reason.
    pub(crate) fn skipped(&mut self, name: &str, tests: u64, why: &str) {
        if tests == 0 {
            return;
        }
        println!("\n     Skipping {name}: {tests} tests: {why}");
        let counts = Counts { skipped: tests, ..Counts::default() };
        self.lines.push(Line { name: format!("{name} (skipped: {why})"), counts, trouble: None, seconds: 0.0 });
    }

    /// Adds a failure outside of test binaries.
    pub(crate) fn failure(&mut self, name: &str, why: &str) {
        println!("\n{name} ... FAILED: {why}");
        let counts = Counts { failed: 1, ..Counts::default() };
        self.lines.push(Line { name: name.to_owned(), counts, trouble: Some(why.to_owned()), seconds: 0.0 });
    }

    /// Adds the results of another process.
    pub(crate) fn append(&mut self, other: Report) {
        self.lines.extend(other.lines);
    }

    /// Names of the binaries reported so far.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| line.name.as_str())
    }

    /// The sum of all results.
    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.lines.iter().for_each(|line| total += line.counts);
        total
    }

    /// A line for each step with its time, longest first.
    fn times(&self, end: Instant) -> Vec<String> {
        let ends = self.steps.iter().skip(1).map(|(_, begin)| *begin).chain([end]);
        let mut steps: Vec<_> = self.steps.iter().zip(ends).map(|((name, begin), end)| (end - *begin, *name)).collect();
        let Some((_, begin)) = self.steps.first() else { return Vec::new() };
        steps.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let line = |time: Duration, name| format!("{:>4}:{:02} {name}", time.as_secs() / 60, time.as_secs() % 60);
        let rows = steps.into_iter().map(|(time, name)| line(time, name));
        let title = "\nMinutes and seconds of each step:".to_owned();
        [title].into_iter().chain(rows).chain([line(end - *begin, "together")]).collect()
    }

    /// Prints a line for each part, the time of each step, and the sum as the last line. Returns the exit code.
    pub(crate) fn close(&self) -> ExitCode {
        println!("\nResults:");
        for line in &self.lines {
            println!("{}", line.text());
        }
        let end = Instant::now();
        self.times(end).iter().for_each(|line| println!("{line}"));
        let total = self.total();
        println!("\n{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
        if total.failed == 0 && total.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Line {
    fn text(&self) -> String {
        let Counts { passed, failed, skipped } = self.counts;
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        let trouble = self.trouble.iter().map(|why| format!(": {why}")).collect::<String>();
        format!(
            "test result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored; finished in {:.2}s - {}{trouble}",
            self.seconds, self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Counts = Counts { passed: 2, failed: 0, skipped: 1 };

    fn totals(counts: Option<Counts>, end: End) -> Counts {
        let mut report = Report::default();
        report.binary("b", counts, end, Duration::ZERO);
        report.total()
    }

    #[test]
    fn sums_count_everything_reported() {
        let mut report = Report::default();
        report.binary("a", Some(GOOD), End::Good, Duration::ZERO);
        report.binary("b", Some(Counts { passed: 1, failed: 3, skipped: 0 }), End::Failures, Duration::ZERO);
        report.check("c", true, Duration::ZERO);
        report.skipped("d", 4, "no reason");
        report.failure("e", "for a reason");
        assert_eq!(report.total(), Counts { passed: 4, failed: 4, skipped: 5 });
    }

    #[test]
    fn a_crash_or_a_contradiction_is_a_failure() {
        assert_eq!(totals(Some(GOOD), End::Good).failed, 0);
        assert_eq!(totals(Some(GOOD), End::Bad("signal 11".into())).failed, 1);
        assert_eq!(totals(None, End::Good).failed, 1);
        assert_eq!(totals(Some(GOOD), End::Failures).failed, 1);
        let failing = Counts { failed: 2, ..GOOD };
        assert_eq!(totals(Some(failing), End::Failures).failed, 2);
        assert_eq!(totals(Some(failing), End::Good).failed, 3);
    }

    #[test]
    fn the_times_of_all_steps_add_up() {
        let mut report = Report::default();
        assert!(report.times(Instant::now()).is_empty());
        let begin = Instant::now();
        report.steps = vec![("short", begin), ("long", begin + Duration::from_secs(5))];
        let times = report.times(begin + Duration::from_secs(65));
        assert_eq!(times[1..], ["   1:00 long", "   0:05 short", "   1:05 together"]);
    }

    #[test]
    fn an_empty_run_is_a_failure() {
        assert_eq!(format!("{:?}", Report::default().close()), format!("{:?}", ExitCode::FAILURE));
    }
}
