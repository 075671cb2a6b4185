//! Network namespaces and what is in them.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sched::{setns, CloneFlags};

use super::{BackendError, BackendResult};
use crate::network::Endpoint;
use crate::spec::NetworkConfig;

/// The network namespace of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its path; `None`: the caller's own, for pods without network.
    pub path: Option<PathBuf>,
    /// The pod owns the namespace: it is created and deleted with the pod.
    pub created: bool,
}

/// Namespaces and the endpoints that join them to a machine.
pub trait Network: Send + Sync {
    /// Decides the path of `pod`'s namespace. Creates nothing.
    ///
    /// # Errors
    /// If the configuration cannot be served.
    fn plan(&self, pod: &str, config: &NetworkConfig) -> BackendResult<Namespace>;

    /// Creates a planned namespace. Called only for namespaces that the pod owns.
    ///
    /// # Errors
    /// If it fails, nothing is left.
    fn create(&self, pod: &str, namespace: &Namespace, config: &NetworkConfig) -> BackendResult<()>;

    /// Runs `job` on a thread of its own inside the namespace (P-065). Must call it exactly once if it succeeds.
    ///
    /// # Errors
    /// If the namespace cannot be entered; the job did not run then.
    fn run(&self, namespace: &Namespace, job: &mut (dyn FnMut() + Send)) -> BackendResult<()> {
        run_in_namespace(namespace.path.as_deref(), job)
    }

    /// Plans an endpoint for each interface: all but loopback and those without an address, in the kernel's order
    /// (P-201). Changes nothing. Called inside the namespace.
    fn scan(&self, pod: &str, namespace: &Namespace, config: &NetworkConfig) -> BackendResult<Vec<Endpoint>>;

    /// Creates a planned endpoint. Called inside the namespace.
    fn attach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()>;

    /// Removes an endpoint, attached or only planned. A missing one is fine. Returns a physical interface to its
    /// driver. Enters the namespace itself.
    fn detach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()>;

    /// Deletes a namespace that was created for a pod. A missing one is fine.
    fn delete(&self, pod: &str, namespace: &Namespace) -> BackendResult<()>;
}

/// Runs `job` on a dedicated thread whose network namespace is the one at `path`; without a path, in the caller's.
///
/// The thread ends with the job, so that no other work can run in a foreign namespace (P-065).
///
/// # Errors
/// If the namespace cannot be opened or entered; the job did not run then.
pub fn run_in_namespace(path: Option<&Path>, job: &mut (dyn FnMut() + Send)) -> BackendResult<()> {
    let enter = || -> BackendResult<()> {
        let Some(path) = path else { return Ok(()) };
        let fail = |what: &str, e| BackendError::system(format!("{what} network namespace {}", path.display()), e);
        let file = File::open(path).map_err(|e| fail("open", e))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| fail("enter", e.into()))
    };
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            enter()?;
            job();
            Ok(())
        });
        let worker = worker.map_err(|e| BackendError::system("start a thread", e))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
