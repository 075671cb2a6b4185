//! Whether an OCI container is a pod of its own, the first container of a pod, or a member (P-193).

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// What a container is to its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nobody said anything: a pod with one container.
    Single,
    /// The container that stands for the pod.
    Sandbox,
    /// A further container of the named pod.
    Member {
        /// Id of the pod.
        pod: String,
    },
}

impl Role {
    /// Name in annotations.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Single => "single",
            Role::Sandbox => "sandbox",
            Role::Member { .. } => "container",
        }
    }
}

/// How one caller marks its containers.
struct Caller {
    type_key: &'static str,
    sandbox: &'static str,
    member: &'static str,
    pod_key: &'static str,
}

/// In the order in which the keys are tried.
const CALLERS: [Caller; 3] = [
    Caller {
        type_key: "io.kubernetes.cri.container-type",
        sandbox: "sandbox",
        member: "container",
        pod_key: "io.kubernetes.cri.sandbox-id",
    },
    Caller {
        type_key: "io.kubernetes.cri-o.ContainerType",
        sandbox: "sandbox",
        member: "container",
        pod_key: "io.kubernetes.cri-o.SandboxID",
    },
    Caller {
        type_key: "io.kubernetes.docker.type",
        sandbox: "podsandbox",
        member: "container",
        pod_key: "io.kubernetes.sandbox.id",
    },
];

/// Reads the role from the annotations (P-193).
///
/// # Errors
/// [`Error::InvalidConfig`] for an unknown type, or a member that does not name its pod.
pub fn classify(annotations: &BTreeMap<String, String>) -> Result<Role> {
    let Some((caller, value)) = CALLERS.iter().find_map(|c| annotations.get(c.type_key).map(|value| (c, value))) else {
        return Ok(Role::Single);
    };
    match value {
        value if value == caller.sandbox => Ok(Role::Sandbox),
        value if value == caller.member => match annotations.get(caller.pod_key).filter(|pod| !pod.is_empty()) {
            Some(pod) => Ok(Role::Member { pod: pod.clone() }),
            None => Err(Error::invalid(
                format!("annotation {}", caller.pod_key),
                "is missing; a member container has to name its pod",
            )),
        },
        value => Err(Error::invalid(
            format!("annotation {}", caller.type_key),
            format!("has the unknown value {value:?}; known are {} and {}", caller.sandbox, caller.member),
        )),
    }
}
