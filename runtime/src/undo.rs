//! Steps to roll back when a creating call fails (P-067, P-096).

/// A stack of effects to roll back, newest first.
///
/// The call pushes a step before (so that a failure half way is covered) each effect, and decides at its very end, by
/// its final result, whether to take them back. Taking back is idempotent and goes by the records, so a step whose
/// effect never happened is harmless, and a creation that was cut short by the death of the runtime is rolled back by the
/// same code later.
#[derive(Debug)]
pub(crate) struct Undo<S> {
    steps: Vec<S>,
}

impl<S> Undo<S> {
    /// An empty stack.
    pub(crate) fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Adds a step.
    pub(crate) fn push(&mut self, step: S) {
        self.steps.push(step);
    }

    /// The steps, newest first.
    pub(crate) fn newest_first(self) -> impl Iterator<Item = S> {
        self.steps.into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_newest_first() {
        let mut undo = Undo::new();
        undo.push(1);
        undo.push(2);
        assert_eq!(undo.newest_first().collect::<Vec<_>>(), [2, 1]);
    }
}
