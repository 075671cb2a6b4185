//! From an OCI `config.json` to a pod or a container (§11.1 of the contract), and from a container to the
//! `config.json` that the guest gets (P-098).
//!
//! Any section may be absent: that is a default or an error, never a panic (P-007).

mod config;
mod derive;
mod guest;
mod kind;
mod map;
#[cfg(test)]
mod tests;

pub use config::OciConfig;
pub use kind::{classify, Role};
pub use map::{container_from_oci, pod_from_oci};

pub(crate) use derive::derive_config;
pub(crate) use guest::{guest_config, has_seccomp, shared_binds, shm_source, GuestBind, GuestPaths};

/// Annotation that holds the whole OCI configuration.
pub const CONFIG_KEY: &str = "dev.hutch.oci.config";
/// Annotation that holds the bundle's path.
pub const BUNDLE_KEY: &str = "dev.hutch.oci.bundle";
/// Annotation that tells `oneshot`, `container` or `single`.
pub const ROLE_KEY: &str = "dev.hutch.oci.role";
/// Annotation towards the guest agent: the user as `user[:group]`, names allowed (P-124).
pub const GUEST_USER_KEY: &str = "dev.hutch.process.user";
/// Annotation towards the guest agent: supplementary groups, separated by commas, names allowed.
pub const GUEST_GROUPS_KEY: &str = "dev.hutch.process.groups";
/// Annotation towards the guest agent: the directory with the guest's hooks (P-166).
pub const GUEST_HOOKS_KEY: &str = "dev.hutch.guest.hooks";
/// Where the guest mounts the directory that the host shares for all containers of the pod.
pub const GUEST_SHARED_DIR: &str = "/run/hutch/shared";
