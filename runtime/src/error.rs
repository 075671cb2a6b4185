//! The error type of the pod API. Callers decide by [`Error::kind`]; the text is for people (pod contract, §2).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::backend::BackendError;
use hutch_agent_proto::error_chain;

use crate::fault::Injected;
use crate::hook::HookFailure;
use crate::state::{InvalidTransition, ParseStateError, State};
use crate::store::StoreCause;
use crate::verb::{Verb, VerbError};

pub use crate::state::Object;

/// Result of a call of the pod API.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Class of an [`Error`]: what callers map to exit codes and RPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The pod id is empty.
    NeedPodId,
    /// The container id is empty.
    NeedContainerId,
    /// A state is required and none was given.
    NeedState,
    /// A path is required and none was given.
    NeedFile,
    /// The configuration, an id or an option is not acceptable.
    InvalidConfig,
    /// No pod of that id.
    NoSuchPod,
    /// The pod has no container of that id.
    NoSuchContainer,
    /// No process with that token is tracked.
    NoSuchProcess,
    /// No volume of that name.
    NoSuchVolume,
    /// The object has no annotation of that name.
    NoSuchAnnotation,
    /// The id is in use.
    AlreadyExists,
    /// The state machine forbids the move.
    InvalidTransition,
    /// The verb is not allowed in this state.
    WrongState,
    /// The network, the VMM, the guest agent, a shim or a host mount failed.
    Backend,
    /// A bounded wait ran out.
    Timeout,
    /// A record could not be read or written.
    Store,
    /// A hook failed or timed out.
    Hook,
    /// The pod was stopped, and may have lost data.
    LostWrites,
}

/// The part outside of the pod API that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Component {
    /// Namespaces, interfaces, taps.
    Network,
    /// The process that holds the virtual machine.
    Vmm,
    /// The agent in the guest.
    Agent,
    /// The host process that stands for a guest process.
    Shim,
    /// Bind mounts on the host.
    Mounts,
    /// Control groups on the host.
    Cgroups,
}

impl Component {
    /// Name in fault points.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Component::Network => "network",
            Component::Vmm => "vm",
            Component::Agent => "agent",
            Component::Shim => "shim",
            Component::Mounts => "mounts",
            Component::Cgroups => "cgroup",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Component::Network => "network",
            Component::Vmm => "virtual machine",
            Component::Agent => "guest agent",
            Component::Shim => "shim process",
            Component::Mounts => "host mounts",
            Component::Cgroups => "control groups",
        })
    }
}

/// Why a call of the pod API failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pod id is empty.
    #[error("a pod id is required")]
    NeedPodId,
    /// The container id is empty.
    #[error("a container id is required")]
    NeedContainerId,
    /// A state is required and none was given.
    #[error("a state is required: ready, running, paused or stopped")]
    NeedState,
    /// A path is required and none was given.
    #[error("a path is required for {0}")]
    NeedFile(&'static str),
    /// The configuration, an id or an option is not acceptable.
    #[error("{what}: {reason}")]
    InvalidConfig {
        /// The field or object.
        what: String,
        /// The fault and its remedy.
        reason: String,
    },
    /// No pod of that id.
    #[error("pod {0} does not exist")]
    NoSuchPod(String),
    /// The pod has no container of that id.
    #[error("container {container} does not exist in pod {pod}")]
    NoSuchContainer {
        /// The pod.
        pod: String,
        /// The id or token that was not found in it.
        container: String,
    },
    /// No process with that token is tracked.
    #[error("no process with token {token} in container {container}: it has ended and was forgotten, or never was")]
    NoSuchProcess {
        /// The container.
        container: String,
        /// The id or token that was not found in it.
        token: String,
    },
    /// No volume of that name.
    #[error("volume {0} does not exist")]
    NoSuchVolume(String),
    /// The object has no annotation of that name.
    #[error("{object} has no annotation {key}")]
    NoSuchAnnotation {
        /// Pod or container.
        object: Object,
        /// The key.
        key: String,
    },
    /// The id is in use.
    #[error("{0} already exists")]
    AlreadyExists(Object),
    /// The state machine forbids the move.
    #[error("{object} cannot go from {from} to {to} (expected to find it {expected})")]
    InvalidTransition {
        /// The object that was to move.
        object: Object,
        /// The state it is in.
        from: State,
        /// The state the caller believed it to be in.
        expected: State,
        /// The state that the caller asked for.
        to: State,
    },
    /// The verb is not allowed in this state.
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
    /// The network, the VMM, the guest agent, a shim or a host mount failed.
    #[error("{component}: {operation}")]
    Backend {
        /// The part that failed.
        component: Component,
        /// The operation.
        operation: &'static str,
        /// Its error.
        source: BackendError,
    },
    /// A bounded wait ran out.
    #[error("{}{what}: not within {} s", prefix(.component), .after.as_secs_f32())]
    Timeout {
        /// The part that did not answer in time; `None` if the runtime itself waited.
        component: Option<Component>,
        /// The operation that was waited for.
        what: String,
        /// The bound.
        after: Duration,
    },
    /// The pod is stopped, but the machine was ended before the guest had written a container's disks.
    #[error(
        "{pod} is stopped, but its guest did not unmount the disks of container {container}, which may have lost their \
         latest writes; check their file systems"
    )]
    LostWrites {
        /// The pod.
        pod: Object,
        /// The container.
        container: String,
    },
    /// A record could not be read or written.
    #[error("record {}", .path.display())]
    Store {
        /// The record.
        path: PathBuf,
        /// The fault.
        source: StoreCause,
    },
    /// A hook failed or timed out.
    #[error("hook {}", .path.display())]
    Hook {
        /// The hook's program.
        path: PathBuf,
        /// The failure, with the hook's output.
        source: HookFailure,
    },
    /// A fault that a test asked for; counted as [`ErrorKind::Backend`].
    #[cfg(any(test, feature = "faults"))]
    #[doc(hidden)]
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// A fault point cannot fail in this build.
#[cfg(not(any(test, feature = "faults")))]
impl From<Injected> for Error {
    fn from(never: Injected) -> Self {
        match never {}
    }
}

impl From<InvalidTransition> for Error {
    fn from(InvalidTransition { object, from, expected, to }: InvalidTransition) -> Self {
        Error::InvalidTransition { object, from, expected, to }
    }
}

impl From<ParseStateError> for Error {
    fn from(error: ParseStateError) -> Self {
        match error {
            ParseStateError::Empty => Error::NeedState,
            ParseStateError::Unknown(text) => {
                Error::invalid(format!("state {text:?}"), "is none of ready, running, paused, stopped")
            }
        }
    }
}

impl From<VerbError> for Error {
    fn from(error: VerbError) -> Self {
        match error {
            VerbError::InvalidTransition(error) => error.into(),
            VerbError::WrongState { object, have, needed, verb } => Error::WrongState { object, have, needed, verb },
        }
    }
}

impl Error {
    /// The class.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NeedPodId => ErrorKind::NeedPodId,
            Error::NeedContainerId => ErrorKind::NeedContainerId,
            Error::NeedState => ErrorKind::NeedState,
            Error::NeedFile(_) => ErrorKind::NeedFile,
            Error::InvalidConfig { .. } => ErrorKind::InvalidConfig,
            Error::NoSuchPod(_) => ErrorKind::NoSuchPod,
            Error::NoSuchContainer { .. } => ErrorKind::NoSuchContainer,
            Error::NoSuchProcess { .. } => ErrorKind::NoSuchProcess,
            Error::NoSuchVolume(_) => ErrorKind::NoSuchVolume,
            Error::NoSuchAnnotation { .. } => ErrorKind::NoSuchAnnotation,
            Error::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Error::InvalidTransition { .. } => ErrorKind::InvalidTransition,
            Error::WrongState { .. } => ErrorKind::WrongState,
            Error::Backend { .. } => ErrorKind::Backend,
            #[cfg(any(test, feature = "faults"))]
            Error::Injected(_) => ErrorKind::Backend,
            Error::Timeout { .. } => ErrorKind::Timeout,
            Error::Store { .. } => ErrorKind::Store,
            Error::Hook { .. } => ErrorKind::Hook,
            Error::LostWrites { .. } => ErrorKind::LostWrites,
        }
    }

    /// Whether the object does not exist (P-006). Callers that delete treat this as success.
    pub fn is_not_found(&self) -> bool {
        use ErrorKind::{NoSuchContainer, NoSuchPod, NoSuchProcess, NoSuchVolume};
        matches!(self.kind(), NoSuchPod | NoSuchContainer | NoSuchProcess | NoSuchVolume)
    }

    /// A rejected configuration: `what` names the field, `reason` the remedy.
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::InvalidConfig { what: what.into(), reason: reason.into() }
    }

    /// The failure of a backend, with the time-outs kept apart (P-204).
    pub(crate) fn backend(component: Component, operation: &'static str, source: BackendError) -> Self {
        match source {
            BackendError::Timeout { after } => {
                Error::Timeout { component: Some(component), what: operation.to_owned(), after }
            }
            source => Error::Backend { component, operation, source },
        }
    }

    /// Whether the guest no longer answers, as opposed to having refused (P-085).
    pub(crate) fn is_guest_lost(&self) -> bool {
        match self {
            Error::Backend { component: Component::Agent, source, .. } => source.is_lost(),
            Error::Timeout { component, .. } => *component == Some(Component::Agent),
            _ => false,
        }
    }

    /// Whether a test made the call fail. Where the product ignores a failure, it must not ignore this one.
    pub(crate) fn is_injected(&self) -> bool {
        #[cfg(any(test, feature = "faults"))]
        return matches!(self, Error::Injected(_));
        #[cfg(not(any(test, feature = "faults")))]
        false
    }

    /// The error and its causes on one line, for logs and for the status of a broken pod.
    pub fn chain(&self) -> String {
        error_chain(self)
    }
}

fn prefix(component: &Option<Component>) -> String {
    component.map(|component| format!("{component}: ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-085, P-204.
    #[test]
    fn p_085_only_an_agent_that_does_not_answer_is_a_lost_guest() {
        let after = Duration::from_secs(2);
        let late = |component| Error::backend(component, "mount", BackendError::Timeout { after });
        assert!(late(Component::Agent).is_guest_lost());
        assert!(!late(Component::Vmm).is_guest_lost());
        assert_eq!(late(Component::Agent).to_string(), "guest agent: mount: not within 2 s");
        let own = Error::Timeout { component: None, what: "guest agent: the end of a process".into(), after };
        assert!(!own.is_guest_lost(), "the text does not decide");
        assert_eq!(own.to_string(), "guest agent: the end of a process: not within 2 s");
    }
}
