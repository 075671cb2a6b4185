//! Requests about containers: which ones they are, and the refusal of an agent that runs none.
//!
//! `hutch-agent` runs processes of the sandbox only. `hutch-agent-oci`, the pid 1 of a pod's guest, hands its own
//! [`Containers`] to [`crate::init::run_with`], so that the code for namespaces, cgroups and seccomp is in that program
//! alone.

use std::sync::Arc;

use hutch_agent_proto::{ProcessSpec, RemoteError, RemoteErrorKind, Request, Response};

use crate::agent::{Agent, Containers};
use crate::failure::Outcome;
use crate::process::Streams;
use crate::spawn::Child;

/// Whether `request` belongs to [`Containers::serve`].
pub fn is_about_containers(request: &Request) -> bool {
    matches!(
        request,
        Request::CreateContainer { .. }
            | Request::StartContainer { .. }
            | Request::KillContainer { .. }
            | Request::RemoveContainer { .. }
            | Request::PauseContainer { .. }
            | Request::ResumeContainer { .. }
            | Request::UpdateContainer { .. }
            | Request::ListProcesses { .. }
            | Request::Stats { .. }
    )
}

/// A guest without containers: refuses every request about one.
pub struct NoContainers;

impl NoContainers {
    fn refuse<T>() -> Outcome<T> {
        Err(RemoteError::new(
            RemoteErrorKind::Unsupported,
            "this guest runs processes of the sandbox only, no containers",
        ))
    }
}

impl Containers for NoContainers {
    fn serve(&self, _agent: &Arc<Agent>, _request: Request) -> Outcome<Response> {
        Self::refuse()
    }

    fn start(&self, _agent: &Agent, _id: &str, _token: &str, _process: &ProcessSpec) -> Outcome<(Child, Streams)> {
        Self::refuse()
    }
}
