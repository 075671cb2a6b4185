//! Which verb is allowed in which state: the two matrices of §3 of the pod contract, as data.

use std::fmt;

use crate::state::{InvalidTransition, Object, State};

/// A verb is not allowed in the present state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    /// The state machine forbids the move.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
    /// The verb is not for objects in this state.
    #[error("{verb}: {object} is {have}, must be {needed}")]
    WrongState {
        /// The object whose state is in the way.
        object: Object,
        /// Its state; `none` if it has none yet.
        have: String,
        /// The states in which the verb is allowed.
        needed: &'static str,
        /// The verb.
        verb: Verb,
    },
}

/// A call that depends on a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are those of the contract's entry points.
pub enum Verb {
    StartPod,
    StopPod,
    DeletePod,
    PausePod,
    ResumePod,
    CreateContainer,
    StartContainer,
    StopContainer,
    DeleteContainer,
    ExecContainer,
    KillContainer,
    ListProcesses,
    StatsContainer,
    UpdateContainer,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Verb; 14] = [
        Verb::StartPod,
        Verb::StopPod,
        Verb::DeletePod,
        Verb::PausePod,
        Verb::ResumePod,
        Verb::CreateContainer,
        Verb::StartContainer,
        Verb::StopContainer,
        Verb::DeleteContainer,
        Verb::ExecContainer,
        Verb::KillContainer,
        Verb::ListProcesses,
        Verb::StatsContainer,
        Verb::UpdateContainer,
    ];

    /// States of the pod in which the verb is allowed, and how an error names them. Exceptions that depend on more than
    /// the state are the caller's: a stop of a stopped container (P-106), a kill with SIGKILL (P-133).
    pub fn pod_states(self) -> (&'static [State], &'static str) {
        use State::{Paused, Ready, Running, Stopped};
        match self {
            Verb::StartPod => (&[Ready, Stopped], "ready or stopped"),
            Verb::StopPod | Verb::DeleteContainer => (&[Ready, Running, Paused, Stopped], "any"),
            Verb::DeletePod => (&[Ready, Paused, Stopped], "ready, paused or stopped"),
            Verb::PausePod => (&[Running], "running"),
            Verb::ResumePod => (&[Paused], "paused"),
            Verb::CreateContainer | Verb::KillContainer | Verb::UpdateContainer => {
                (&[Ready, Running], "ready or running")
            }
            Verb::StartContainer | Verb::ExecContainer | Verb::ListProcesses => (&[Running], "running"),
            Verb::StopContainer => (&[Ready, Running, Paused], "ready, running or paused"),
            Verb::StatsContainer => (&[Ready, Running, Paused], "ready, running or paused"),
        }
    }

    /// States of the container in which the verb is allowed, and how an error names them; `None` if the verb is not
    /// about one container.
    pub fn container_states(self) -> Option<(&'static [State], &'static str)> {
        use State::{Paused, Ready, Running, Stopped};
        Some(match self {
            Verb::StartContainer | Verb::DeleteContainer => (&[Ready, Stopped], "ready or stopped"),
            Verb::StopContainer => (&[Ready, Running, Paused, Stopped], "any"),
            Verb::ExecContainer | Verb::KillContainer | Verb::UpdateContainer => {
                (&[Ready, Running], "ready or running")
            }
            Verb::ListProcesses => (&[Running], "running"),
            Verb::StatsContainer => (&[Ready, Running, Paused], "ready, running or paused"),
            _ => return None,
        })
    }

    /// Checks the pod's state.
    ///
    /// # Errors
    /// [`VerbError::WrongState`] naming verb and pod; for StartPod of a running pod [`VerbError::InvalidTransition`]
    /// (P-073).
    pub fn check_pod(self, pod: &str, have: State) -> Result<(), VerbError> {
        let (allowed, needed) = self.pod_states();
        if self == Verb::StartPod && have == State::Running {
            State::Running.check(Object::Pod(pod.into()), State::Ready, State::Running)?;
        }
        self.check(Object::Pod(pod.into()), Some(have), allowed, needed)
    }

    /// Checks the container's state; `None` is a container that has none yet, which only a delete accepts.
    ///
    /// # Errors
    /// [`VerbError::WrongState`] naming verb and container.
    pub fn check_container(self, container: &str, have: Option<State>) -> Result<(), VerbError> {
        let Some((allowed, needed)) = self.container_states() else { return Ok(()) };
        if have.is_none() && matches!(self, Verb::DeleteContainer | Verb::StopContainer | Verb::StartContainer) {
            return Ok(());
        }
        self.check(Object::Container(container.into()), have, allowed, needed)
    }

    fn check(
        self,
        object: Object,
        have: Option<State>,
        allowed: &[State],
        needed: &'static str,
    ) -> Result<(), VerbError> {
        if have.is_some_and(|have| allowed.contains(&have)) {
            return Ok(());
        }
        let have = have.map_or("none", State::name).to_owned();
        Err(VerbError::WrongState { object, have, needed, verb: self })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::StartPod => "start pod",
            Verb::StopPod => "stop pod",
            Verb::DeletePod => "delete pod",
            Verb::PausePod => "pause pod",
            Verb::ResumePod => "resume pod",
            Verb::CreateContainer => "create container",
            Verb::StartContainer => "start container",
            Verb::StopContainer => "stop container",
            Verb::DeleteContainer => "delete container",
            Verb::ExecContainer => "run in container",
            Verb::KillContainer => "kill container",
            Verb::ListProcesses => "list processes of container",
            Verb::StatsContainer => "stats of container",
            Verb::UpdateContainer => "update container",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    /// The pod matrix of §3 of the pod contract, one row per verb: ready, running, paused, stopped.
    #[test]
    fn the_pod_matrix_is_the_one_of_the_contract() {
        use ErrorKind::{InvalidTransition as It, WrongState as Ws};
        let rows: [(Verb, [Option<ErrorKind>; 4]); 11] = [
            (Verb::StartPod, [None, Some(It), Some(Ws), None]),
            (Verb::StopPod, [None; 4]),
            (Verb::DeletePod, [None, Some(Ws), None, None]),
            (Verb::PausePod, [Some(Ws), None, Some(Ws), Some(Ws)]),
            (Verb::ResumePod, [Some(Ws), Some(Ws), None, Some(Ws)]),
            (Verb::CreateContainer, [None, None, Some(Ws), Some(Ws)]),
            (Verb::StartContainer, [Some(Ws), None, Some(Ws), Some(Ws)]),
            (Verb::StopContainer, [None, None, None, Some(Ws)]),
            (Verb::ExecContainer, [Some(Ws), None, Some(Ws), Some(Ws)]),
            (Verb::ListProcesses, [Some(Ws), None, Some(Ws), Some(Ws)]),
            (Verb::KillContainer, [None, None, Some(Ws), Some(Ws)]),
        ];
        for (verb, row) in rows {
            for (state, expected) in State::ALL.into_iter().zip(row) {
                let result = verb.check_pod("p", state).map_err(|e| Error::from(e).kind()).err();
                assert_eq!(result, expected, "{verb} in {state}");
            }
        }
    }

    /// The container matrix of §3 of the pod contract.
    #[test]
    fn the_container_matrix_is_the_one_of_the_contract() {
        let rows = [
            (Verb::StartContainer, [true, false, false, true]),
            (Verb::StopContainer, [true, true, true, true]),
            (Verb::DeleteContainer, [true, false, false, true]),
            (Verb::ExecContainer, [true, true, false, false]),
            (Verb::KillContainer, [true, true, false, false]),
            (Verb::ListProcesses, [false, true, false, false]),
        ];
        for (verb, row) in rows {
            for (state, allowed) in State::ALL.into_iter().zip(row) {
                let result = verb.check_container("c", Some(state));
                assert_eq!(result.is_ok(), allowed, "{verb} in {state}");
                if let Err(error) = result {
                    let text = error.to_string();
                    assert_eq!(Error::from(error).kind(), ErrorKind::WrongState);
                    assert!(text.contains("container c") && text.contains(&verb.to_string()), "{text}");
                }
            }
        }
    }
}
