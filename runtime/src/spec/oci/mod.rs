//! From an OCI `config.json` to a pod or container (pod contract, §11.1), and from a container to the `config.json`
//! of the guest (P-098).
//!
//! A container made from a bundle has its configuration twice: its typed fields ([`super::ContainerConfig`]), which are all
//! that the host acts on, and the whole JSON in the annotation [`CONFIG_KEY`], which is what the guest gets. The contract
//! asks for both: a caller may give the annotation beside fields of its own (P-101), and the status of a container returns
//! it. The host never writes to the annotation. In a copy for the guest it replaces paths, hooks and volumes, and the
//! limits, which may have been changed since the creation, by those of the typed fields.
//!
//! Any section may be absent: it has a default or gives an error, and never causes a panic (P-007).

mod config;
mod derive;
mod guest;
mod hooks;
mod kind;
mod map;
#[cfg(test)]
mod tests;

pub(crate) use hooks::hook_specs;
pub use kind::{classify, Role};
pub use map::{container_from_oci, pod_from_oci};

pub(crate) use config::OciConfig;
pub(crate) use derive::{derive_config, put_limits};
pub(crate) use guest::{guest_config, has_seccomp, is_pseudo, shared_binds, shm_source, GuestBind, GuestPaths};

/// Annotation that holds the whole OCI configuration.
pub const CONFIG_KEY: &str = "dev.hutch.oci.config";
/// Annotation that holds the bundle's path.
pub const BUNDLE_KEY: &str = "dev.hutch.oci.bundle";
/// Annotation with the container's role: `sandbox`, `container` or `single`.
pub const ROLE_KEY: &str = "dev.hutch.oci.role";
/// Beginning of annotations that once set a process's user in the guest. They never reach the guest: a caller that may write
/// annotations need not be one that decides about users.
pub(crate) const GUEST_PROCESS_KEYS: &str = "dev.hutch.process.";
/// Annotation for the guest agent: the directory with the guest's hooks (P-166).
pub const GUEST_HOOKS_KEY: &str = "dev.hutch.guest.hooks";
/// Directory in the guest at which it mounts the directory that the host shares for all containers of the pod.
pub const GUEST_SHARED_DIR: &str = "/run/hutch/shared";
