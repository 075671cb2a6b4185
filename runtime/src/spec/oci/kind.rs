//! The role of an OCI container: a pod of its own, the first container of a pod, or a member (P-193).

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The role of a container in its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// No annotation decides: a pod with this one container.
    Single,
    /// The container that represents the pod.
    Sandbox,
    /// A further container of the named pod.
    Member {
        /// Id of the pod.
        pod: String,
    },
}

impl Role {
    /// Name of the role in annotations.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Single => "single",
            Role::Sandbox => "sandbox",
            Role::Member { .. } => "container",
        }
    }
}

/// Annotations of one caller.
struct Caller {
    type_key: &'static str,
    sandbox: &'static str,
    member: &'static str,
    pod_key: &'static str,
}

/// Tried in this order.
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
                "is missing; a member container must name its pod",
            )),
        },
        value => Err(Error::invalid(
            format!("annotation {}", caller.type_key),
            format!("has the unknown value {value:?}; known are {} and {}", caller.sandbox, caller.member),
        )),
    }
}
