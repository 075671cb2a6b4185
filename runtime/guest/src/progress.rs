//! What a build tells while it runs. The library prints nothing; `hutch guest build` and the tasks do.

use std::time::{Duration, Instant};

/// Something a build has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A phase began.
    Begin(&'a str),
    /// The phase came this far: `done` steps, of `expected` if that is known. `expected` is an estimate.
    Step {
        /// Steps finished.
        done: u32,
        /// Steps there will be, about.
        expected: Option<u32>,
    },
    /// The phase ended after this time.
    End(&'a str, Duration),
    /// Something to be told before it happens, such as the packages about to be installed.
    Note(&'a str),
}

/// Where events go. Any `FnMut(Event)` is one.
pub trait Progress {
    /// Takes one event; called on the thread that builds.
    fn event(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Runs `work` as the phase `name`.
pub(crate) fn phase<T, E>(
    progress: &mut dyn Progress,
    name: &str,
    work: impl FnOnce(&mut dyn Progress) -> Result<T, E>,
) -> Result<T, E> {
    progress.event(Event::Begin(name));
    let start = Instant::now();
    let result = work(progress)?;
    progress.event(Event::End(name, start.elapsed()));
    Ok(result)
}
