//! Steps to roll back when a creating call fails (P-067, P-096).

/// A stack of effects to roll back, newest first.
///
/// The call pushes a step before each effect (so that a failure half way is covered), and decides at its end, by its
/// final result, whether to roll them back. The rollback is idempotent and goes by the records. A step whose effect
/// never happened is harmless, and the same code later rolls back a creation that the death of the runtime cut short.
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
