//! The states of pods and containers, and the moves between them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Object, Result};

/// State of a pod or of a container; both follow the same machine (§3 of the contract).
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
///   while its vCPUs are held, `stopped` when its machine and network are gone. StartPod on a stopped pod boots a new
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
    /// Created, never started.
    Ready,
    /// Started.
    Running,
    /// Held by a pause of the pod.
    Paused,
    /// Ended.
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
    /// [`Error::InvalidTransition`] if it is in another state, even if the move would be legal from there, or if the
    /// move is illegal.
    pub fn check(self, object: Object, expected: State, to: State) -> Result<()> {
        if self == expected && self.can_become(to) {
            return Ok(());
        }
        Err(Error::InvalidTransition { object, from: self, expected, to })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = Error;

    /// # Errors
    /// [`Error::NeedState`] for an empty text, [`Error::InvalidConfig`] for any other that is not a state (P-010).
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::NeedState);
        }
        State::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| Error::invalid(format!("state {text:?}"), "is none of ready, running, paused, stopped"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn p_010_only_the_four_names_are_states() {
        for state in State::ALL {
            assert_eq!(state.name().parse::<State>().unwrap(), state);
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!("".parse::<State>().unwrap_err().kind(), ErrorKind::NeedState);
        for text in ["Ready", "created", "running ", "unknown"] {
            assert_eq!(text.parse::<State>().unwrap_err().kind(), ErrorKind::InvalidConfig, "{text:?}");
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
        let Error::InvalidTransition { from, expected, to, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*from, *expected, *to), (State::Running, State::Ready, State::Stopped));
        assert!(error.to_string().contains("running") && error.to_string().contains("ready"), "{error}");
        State::Ready.check(Object::Pod("p".into()), State::Ready, State::Stopped).unwrap();
    }
}
