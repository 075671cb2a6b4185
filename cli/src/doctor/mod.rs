//! Whether `hutch run` would work on this host, and what to do if not. [`checks`] decides, [`host`] looks.

mod checks;
mod host;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use checks::examine;
pub use host::ThisHost;
#[cfg(test)]
use host::View;

/// All findings. As JSON this is a stable format: see `resources/docs/doctor.md`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this format; grows when something is renamed or removed.
    pub format: u32,
    /// Whether `hutch run` would work: no finding is a failure.
    pub usable: bool,
    /// In the order in which they are examined.
    pub findings: Vec<Finding>,
}

/// What one check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; `None` if nothing is to be done.
    pub remedy: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// `hutch run` works, something else may not.
    Warning,
    /// `hutch run` would not work.
    Failure,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    fn warning(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warning, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn failure(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Failure, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl Report {
    /// Over these findings.
    pub fn new(findings: Vec<Finding>) -> Self {
        let usable = findings.iter().all(|finding| finding.status != Status::Failure);
        Self { format: 1, usable, findings }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for Finding { check, status, detail, remedy } in &self.findings {
            let status = match status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Failure => "FAILURE",
            };
            text += &format!("{status:8} {check:14} {detail}\n");
            if let Some(remedy) = remedy {
                text += &format!("{:8} {:14} → {remedy}\n", "", "");
            }
        }
        text += match self.usable {
            true => "`hutch run` works here.\n",
            false => "`hutch run` would not work here.\n",
        };
        text
    }
}
