//! `--verbose` and `--marks`: the times of the phases of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use hutch_runtime::oneshot::PhaseMarks;
use hutch_vmm::confine::report::{JailReport, OFF};
use hutch_vmm::{Machine, Mark};

use crate::clock;
use crate::failure::Failure;
use crate::marks::MarksFile;

/// The marks of this program. [`Phases::report`] adds those of the machine and the run.
pub struct Phases {
    table: bool,
    path: Option<PathBuf>,
    file: Option<MarksFile>,
    /// The namespaces that the process has of its own.
    namespaces: Vec<&'static str>,
    marks: Vec<(String, u64)>,
}

impl Phases {
    /// `started`: the start of `main`. `table`: print a table to stderr. `path`: the file for the marks.
    pub fn new(table: bool, path: Option<PathBuf>, started: u64) -> Self {
        let mut phases = Self { table, path, file: None, namespaces: Vec::new(), marks: Vec::new() };
        if phases.wanted() {
            // The process has not waited yet, so that its CPU time is its age.
            let now = hutch_vmm::now_ns();
            phases.marks.push(("process started".into(), now.saturating_sub(clock::cpu_ns()).min(started)));
            phases.marks.push(("main reached".into(), started));
        }
        phases
    }

    fn wanted(&self) -> bool {
        self.table || self.path.is_some()
    }

    /// Notes the namespaces that the process has of its own.
    pub fn has_namespaces(&mut self, namespaces: Vec<&'static str>) {
        self.namespaces = namespaces;
    }

    /// Makes the file for the marks, if the run wants one.
    pub fn open(&mut self) -> Result<(), Failure> {
        self.file = self.path.as_deref().map(MarksFile::create).transpose()?;
        Ok(())
    }

    /// Records that the phase `what` is done.
    pub fn mark(&mut self, what: &str) {
        if self.wanted() {
            self.marks.push((what.into(), hutch_vmm::now_ns()));
        }
    }

    /// Prints and writes all marks, in order of time.
    pub fn report(mut self, machine: &Machine, run: &PhaseMarks) -> Result<(), Failure> {
        if !self.wanted() {
            return Ok(());
        }
        self.mark("done");
        self.marks.extend(machine.marks().into_iter().map(|mark| (name(&mark.name), mark.at_ns)));
        self.marks.extend(run.0.iter().map(|(what, at)| ((*what).to_owned(), *at)));
        self.marks.sort_by_key(|(_, at)| *at);
        let exits = machine.counters().exits;
        if let Some(file) = self.file.take() {
            let marks: Vec<Mark> = self
                .marks
                .iter()
                .map(|(name, at_ns)| Mark { name: name.clone(), at_ns: *at_ns, exits: None })
                .collect();
            file.write(&marks, &exits)?;
        }
        if !self.table {
            return Ok(());
        }
        eprint!("{}", table(&self.marks));
        let jail = machine.jail().map(|jail| JailReport { namespaces: self.namespaces, ..jail }.to_string());
        let jail = jail.unwrap_or_else(|| OFF.to_owned());
        eprintln!("hutch: jail: {jail}");
        eprintln!(
            "hutch: exits to user space: {} ({} port, {} MMIO)",
            exits.total(),
            exits.pio_in + exits.pio_out,
            exits.mmio_read + exits.mmio_write
        );
        Ok(())
    }
}

/// A description of a machine's mark.
fn name(mark: &str) -> String {
    match mark {
        "build" => "machine build begins",
        "vm-created" => "KVM machine created",
        "memory-ready" => "guest memory ready",
        "devices-ready" => "devices ready",
        "kernel-loaded" => "kernel loaded",
        "vcpus-ready" => "vCPUs ready",
        "start" => "vCPUs started",
        "end" => "machine ended",
        "guest:init" => "guest: init entered",
        "guest:agent-ready" => "guest: agent ready",
        "guest:command" => "guest: command executed",
        "guest:shutting-down" => "guest: shutting down",
        other => other,
    }
    .to_owned()
}

fn table(marks: &[(String, u64)]) -> String {
    let first = marks.first().map_or(0, |(_, at)| *at);
    let mut text = String::new();
    let mut last = first;
    for (what, at) in marks {
        let ms = |ns: u64| ns as f64 / 1e6;
        let _ = writeln!(text, "hutch: {:>10.3} ms {:>+10.3} ms  {what}", ms(at - first), ms(at - last));
        last = *at;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_shown_with_time_since_the_start_and_since_the_previous_phase() {
        let marks = [("a".to_owned(), 1_000_000), ("b".to_owned(), 3_500_000), ("c".to_owned(), 4_000_000)];
        let text = table(&marks);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["hutch:", "0.000", "ms", "+0.000", "ms", "a"]);
        assert_eq!(lines[2], ["hutch:", "3.000", "ms", "+0.500", "ms", "c"]);
    }
}
