//! The states of pods and containers, and the moves between them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pod or a container, in messages about its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A pod, by id.
    Pod(String),
    /// A container, by id.
    Container(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Pod(id) => write!(f, "pod {id}"),
            Object::Container(id) => write!(f, "container {id}"),
        }
    }
}

/// The state machine forbids a move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object} cannot go from {from} to {to} (expected to find it {expected})")]
pub struct InvalidTransition {
    /// The object that was to move.
    pub object: Object,
    /// Its present state.
    pub from: State,
    /// The state that the caller believed it to be in.
    pub expected: State,
    /// The state that the caller asked for.
    pub to: State,
}

/// A text does not name a state (P-010).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseStateError {
    /// The text is empty.
    #[error("a state is required: ready, running, paused or stopped")]
    Empty,
    /// The text is none of the four names.
    #[error("state {0:?}: is none of ready, running, paused, stopped")]
    Unknown(String),
}

/// State of a pod or of a container; both follow the same machine (pod contract, §3).
///
/// ```text
///                 create
///                   │
///                   ▼      start
///               ┌───────┐ ────────▶ ┌─────────┐   pause    ┌────────┐
///               │ ready │           │ running │ ─────────▶ │ paused │
///               └───────┘           └─────────┘ ◀───────── └────────┘
///                   │                ▲  │         resume        │
///                   │ stop     start │  │ stop, exit            │ stop
///                   │                │  ▼                       │
///                   │             ┌─────────┐                   │
///                   └───────────▶ │ stopped │ ◀─────────────────┘
///                                 └─────────┘
///                                      │ delete (also from ready; from paused after a forced stop)
///                                      ▼
///                                  no record
/// ```
///
/// - A *pod* is `ready` while its machine is up and nothing of the workload has run, `running` after StartPod, `paused`
///   while its vCPUs are paused, `stopped` when its machine and network are gone. StartPod on a stopped pod boots a new
///   machine from the stored configuration (P-072).
/// - A *container* is `ready` when the guest has created it, `running` after its program was executed, `paused` with its
///   pod, `stopped` after its process has ended and its binds and devices are released. StartContainer on a stopped one
///   creates it in the guest again (P-094).
/// - Pausing a pod forces every container that is not stopped to `paused` and remembers what it was; resuming restores
///   that (P-015, P-142). These two are the only moves outside of the drawing.
///
/// No call deletes a record because a start or stop failed (P-170).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Created and not started.
    Ready,
    /// Started and not ended.
    Running,
    /// Paused with its pod.
    Paused,
    /// Ended, or stopped by a call.
    Stopped,
}

impl State {
    /// All states.
    pub const ALL: [State; 4] = [State::Ready, State::Running, State::Paused, State::Stopped];

    /// The name in records and in status.
    pub fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped => "stopped",
        }
    }

    /// Whether the drawing has an arrow from here to `to`.
    pub fn can_become(self, to: State) -> bool {
        use State::{Paused, Ready, Running, Stopped};
        matches!(
            (self, to),
            (Ready, Running | Stopped) | (Running, Paused | Stopped) | (Paused, Running | Stopped) | (Stopped, Running)
        )
    }

    /// Checks a move of `object`, which is in this state and which the caller believes to be in `expected` (P-011).
    ///
    /// # Errors
    /// If it is in another state, even if the move would be legal from there, or if the move is illegal.
    pub fn check(self, object: Object, expected: State, to: State) -> Result<(), InvalidTransition> {
        if self == expected && self.can_become(to) {
            return Ok(());
        }
        Err(InvalidTransition { object, from: self, expected, to })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        if text.is_empty() {
            return Err(ParseStateError::Empty);
        }
        let found = State::ALL.into_iter().find(|state| state.name() == text);
        found.ok_or_else(|| ParseStateError::Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn p_010_only_the_four_names_are_states() {
        for state in State::ALL {
            assert_eq!(state.name().parse::<State>().unwrap(), state);
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!("".parse::<State>(), Err(ParseStateError::Empty));
        for text in ["Ready", "created", "running ", "unknown"] {
            assert_eq!(text.parse::<State>(), Err(ParseStateError::Unknown(text.into())));
        }
        assert!(serde_json::from_str::<State>("\"\"").is_err());
    }

    #[test]
    fn the_machine_is_the_one_of_the_contract() {
        use State::{Paused, Ready, Running, Stopped};
        let legal = [
            (Ready, Running),
            (Ready, Stopped),
            (Running, Paused),
            (Running, Stopped),
            (Paused, Running),
            (Paused, Stopped),
            (Stopped, Running),
        ];
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(from.can_become(to), legal.contains(&(from, to)), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn p_011_a_check_against_a_wrong_expectation_names_both_states() {
        let error = State::Running.check(Object::Pod("p".into()), State::Ready, State::Stopped).unwrap_err();
        assert_eq!((error.from, error.expected, error.to), (State::Running, State::Ready, State::Stopped));
        assert!(error.to_string().contains("running") && error.to_string().contains("ready"), "{error}");
        State::Ready.check(Object::Pod("p".into()), State::Ready, State::Stopped).unwrap();
    }
}
