//! The backend to OCI containers. This agent runs processes of the sandbox itself; who runs containers is given to it,
//! so that the large machinery for namespaces, cgroups and seccomp can live in a program of its own which is brought
//! into the guest only when a container is asked for.

use std::sync::Arc;

use hutch_agent_proto::{ErrorKind, ProcessSpec, RemoteError, Request, Response};

use crate::failure::Outcome;
use crate::process::Streams;
use crate::server::Agent;
use crate::spawn::Child;

/// Runs containers.
pub trait Containers: Send + Sync {
    /// Serves one of the requests about containers ([`is_about_containers`]), on the thread of its connection.
    ///
    /// # Errors
    /// What the host is to be told.
    fn serve(&self, agent: &Arc<Agent>, request: Request) -> Outcome<Response>;

    /// Starts a process in container `id`. The caller registers it under `token`.
    ///
    /// # Errors
    /// What the host is to be told.
    fn start(&self, agent: &Agent, id: &str, token: &str, process: &ProcessSpec) -> Outcome<(Child, Streams)>;
}

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

/// A guest without containers.
pub struct NoContainers;

impl NoContainers {
    fn refuse<T>() -> Outcome<T> {
        Err(RemoteError::new(ErrorKind::Unsupported, "this guest runs processes of the sandbox only, no containers"))
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
