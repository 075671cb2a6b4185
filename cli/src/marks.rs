//! `--marks FILE`: times and counts for measurements, one JSON object per line. Marks have `name` and `at_ns`
//! (CLOCK_MONOTONIC), counts have `name` and `count`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hutch_vmm::counters::ExitCounts;
use hutch_vmm::Mark;

use crate::failure::Failure;

#[derive(Debug, thiserror::Error)]
#[error("cannot write the marks to {}; name a file in a writable directory", .path.display())]
pub struct MarksError {
    path: PathBuf,
    source: std::io::Error,
}

/// The file of a run that has begun. It is opened at the start: later the process may have another user.
pub struct MarksFile {
    path: PathBuf,
    file: File,
}

impl MarksFile {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        match File::create(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            Err(source) => Err(MarksError { path: path.to_owned(), source }.into()),
        }
    }

    /// Writes marks and exit counts.
    pub fn write(mut self, marks: &[Mark], exits: &ExitCounts) -> Result<(), Failure> {
        let text = text(marks, exits);
        self.file.write_all(text.as_bytes()).map_err(|source| MarksError { path: self.path, source }.into())
    }
}

fn text(marks: &[Mark], exits: &ExitCounts) -> String {
    let mut text = String::new();
    for mark in marks {
        let _ = writeln!(text, "{}", serde_json::json!({"name": mark.name, "at_ns": mark.at_ns}));
        if let Some(exits) = &mark.exits {
            let _ = writeln!(text, "{}", serde_json::json!({"name": exits_name(&mark.name), "count": exits.total()}));
        }
    }
    for (name, count) in [
        ("user_exits", exits.total()),
        ("user_exits_pio", exits.pio_in + exits.pio_out),
        ("user_exits_mmio", exits.mmio_read + exits.mmio_write),
    ] {
        let _ = writeln!(text, "{}", serde_json::json!({"name": name, "count": count}));
    }
    text
}

/// Name of the count of exits until a mark: `user_exits_until_init` for `guest:init`.
fn exits_name(mark: &str) -> String {
    format!("user_exits_until_{}", mark.strip_prefix("guest:").unwrap_or(mark))
}
