//! The report: findings, and their form as a table.

use serde::Serialize;

/// All findings. Their JSON is a stable format: see `resources/docs/reference/doctor.md`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this format; it grows when a member is renamed or removed.
    pub format: u32,
    /// Whether `hutch run` would work: true if no finding is a failure.
    pub usable: bool,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

/// The result of one check.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub status: Status,
    pub detail: String,
    /// How to fix it; `None` if the status is ok.
    pub remedy: Option<String>,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// `hutch run` works; other verbs may not.
    Warning,
    /// `hutch run` would not work.
    Failure,
}

impl Finding {
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    pub(super) fn warning(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warning, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failure(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Failure, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl Report {
    pub fn new(findings: Vec<Finding>) -> Self {
        let usable = findings.iter().all(|finding| finding.status != Status::Failure);
        Self { format: 1, usable, findings }
    }

    /// The report as a table for people.
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
