//! The record of calls, and the failures that a test has asked for.

use std::time::Duration;

use hutch_agent_proto::{RemoteError, RemoteErrorKind};

use hutch_runtime::backend::{BackendError, BackendResult};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// The other side refuses; it has done nothing.
    Refuses,
    /// It does not answer; it has done nothing.
    TimesOut,
    /// The channel is gone; it has done nothing.
    Lost,
    /// It has done what was asked, and fails all the same.
    AfterDoing,
    /// It has done what was asked, but its answer comes too late.
    TooLate,
}

impl Failing {
    fn error(self, call: &str) -> BackendError {
        match self {
            Failing::TimesOut | Failing::TooLate => BackendError::Timeout { after: Duration::from_secs(1) },
            Failing::Lost => BackendError::Lost(format!("{call}: the other side is gone")),
            Failing::Refuses | Failing::AfterDoing if call.starts_with("agent.") => {
                BackendError::Remote(RemoteError::new(RemoteErrorKind::System, format!("{call} was made to fail")))
            }
            Failing::Refuses | Failing::AfterDoing => BackendError::Refused(format!("{call} was made to fail")),
        }
    }
}

#[derive(Debug)]
struct Plan {
    call: String,
    skip: usize,
    times: usize,
    how: Failing,
}

/// Calls made so far and failures to come.
#[derive(Debug, Default)]
pub(super) struct Calls {
    made: Vec<String>,
    plans: Vec<Plan>,
}

impl Calls {
    /// The call with this number (from 0) and the `times - 1` after it will fail.
    pub(super) fn plan(&mut self, call: &str, skip: usize, times: usize, how: Failing) {
        self.plans.push(Plan { call: call.to_owned(), skip, times, how });
    }

    pub(super) fn clear_plans(&mut self) {
        self.plans.clear();
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.made)
    }

    /// Notes a call; returns how it must fail, if a test asked for that.
    pub(super) fn note(&mut self, call: &str, detail: &str) -> Option<Failing> {
        self.made.push(if detail.is_empty() { call.to_owned() } else { format!("{call} {detail}") });
        let plan = self.plans.iter_mut().find(|plan| plan.call == call && plan.times > 0)?;
        if plan.skip > 0 {
            plan.skip -= 1;
            return None;
        }
        plan.times -= 1;
        Some(plan.how)
    }
}

/// Runs `call` as `how` wants it.
pub(super) fn perform<T>(
    name: &str,
    how: Option<Failing>,
    call: impl FnOnce() -> BackendResult<T>,
) -> BackendResult<T> {
    match how {
        None => call(),
        Some(how @ (Failing::AfterDoing | Failing::TooLate)) => call().and_then(|_| Err(how.error(name))),
        Some(how) => Err(how.error(name)),
    }
}
