//! The names that hutch gives to its files and directories.

/// Name of the marker of a root.
pub const ROOT_MARKER: &str = ".hutch-root.json";
/// Name of the marker of a pod directory.
pub const POD_MARKER: &str = ".hutch-pod.json";
/// Beginning of the names of reservations of ids.
pub(super) const RESERVATION: &str = ".hutch-id-";

/// A directory that hutch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A pod's, in the config root.
    PodConfig,
    /// A pod's, in the run root.
    PodRun,
    /// A container's, in the config root.
    ContainerConfig,
    /// A container's, in the run root.
    ContainerRun,
    /// Of the records of a container's execs.
    Execs,
}

impl Place {
    pub(super) fn is_file(self, name: &str) -> bool {
        let names: &[&str] = match self {
            Place::PodConfig => &["config.json", POD_MARKER],
            Place::PodRun => &[
                "lock",
                "state.json",
                "network.json",
                "hypervisor.json",
                "agent.json",
                "failure.json",
                "vmm.log",
                "console.log",
                POD_MARKER,
            ],
            Place::ContainerConfig => &["config.json"],
            Place::ContainerRun => &["state.json", "process.json", "mounts.json", "devices.json", "exit.json"],
            Place::Execs => {
                return name.strip_suffix(".json").is_some_and(|token| {
                    let token = token.strip_suffix(".exit").unwrap_or(token);
                    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_hexdigit())
                })
            }
        };
        names.contains(&name)
    }

    /// Whether a name is that of an unfinished write of a file of this directory.
    pub(crate) fn is_temporary(self, name: &str) -> bool {
        temporary_of(name).is_some_and(|of| self.is_file(of))
    }
}

/// The name of the file of which `name` is an unfinished write: `NAME SUFFIX`. No id and no record has a blank.
fn temporary_of(name: &str) -> Option<&str> {
    let (of, suffix) = name.split_once(' ')?;
    (!suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.')).then_some(of)
}

/// Whether `name` is the marker `marker`, or the unfinished write of it.
pub(super) fn is_marker(name: &str, marker: &str) -> bool {
    name == marker || temporary_of(name) == Some(marker)
}

/// The name of an unfinished write of the file `name`.
pub(super) fn temporary_name(name: &str, unique: &str) -> String {
    format!("{name} {unique}")
}
