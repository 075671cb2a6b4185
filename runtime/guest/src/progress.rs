//! Progress reports of a build. The library prints nothing; `hutch guest build` and the tasks print these.

use std::time::{Duration, Instant};

/// A report of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent<'a> {
    /// A phase began.
    Begin(&'a str),
    /// Progress of the phase: `done` steps out of an estimated `expected`, if there is an estimate.
    Step {
        /// Steps finished.
        done: u32,
        /// Estimated number of steps.
        expected: Option<u32>,
    },
    /// The phase ended; it took this time.
    End(&'a str, Duration),
    /// A note before an action, such as the names of packages to be installed.
    Note(&'a str),
}

/// Receiver of the reports. Any `FnMut(BuildEvent)` is one.
pub trait Progress {
    /// Takes one report; called on the thread that builds.
    fn event(&mut self, event: BuildEvent<'_>);
}

impl<F: FnMut(BuildEvent<'_>)> Progress for F {
    fn event(&mut self, event: BuildEvent<'_>) {
        self(event);
    }
}

/// Runs `work` as the phase `name`.
pub(crate) fn phase<T, E>(
    progress: &mut dyn Progress,
    name: &str,
    work: impl FnOnce(&mut dyn Progress) -> Result<T, E>,
) -> Result<T, E> {
    progress.event(BuildEvent::Begin(name));
    let start = Instant::now();
    let result = work(progress)?;
    progress.event(BuildEvent::End(name, start.elapsed()));
    Ok(result)
}
