//! Ids of pods and containers. They become directory names, so they are checked before anything else (P-004).

use std::fmt;

use crate::error::{Error, Result};

/// Longest id in bytes; a directory entry may have 255, and file names derived from ids need some of them.
pub const MAX_ID: usize = 192;

/// Beginning of the names of hutch's own files beside the directories of pods.
const OWN_PREFIX: &str = ".hutch-";

/// Names in a pod's directories that are not containers.
pub const RESERVED_NAMES: [&str; 10] = [
    "config.json",
    "state.json",
    "lock",
    "network.json",
    "hypervisor.json",
    "agent.json",
    "failure.json",
    "shared",
    "vmm.log",
    "console.log",
];

/// A checked pod id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(String);

/// A checked container id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl PodId {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`Error::NeedPodId`] if it is empty (P-001), [`Error::InvalidConfig`] if it cannot be an id (P-004).
    pub fn new(id: &str) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::NeedPodId);
        }
        check("pod id", id)?;
        Ok(Self(id.to_owned()))
    }
}

impl ContainerId {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`Error::NeedContainerId`] if it is empty (P-002), [`Error::InvalidConfig`] if it cannot be an id (P-004) or is
    /// the name of one of the pod's own records, beside which the container's directory lies.
    pub fn new(id: &str) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::NeedContainerId);
        }
        check("container id", id)?;
        if RESERVED_NAMES.contains(&id) {
            return Err(Error::invalid(
                format!("container id {id:?}"),
                "is the name of a record of the pod; choose another",
            ));
        }
        Ok(Self(id.to_owned()))
    }
}

/// A checked name of a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Checks `name`: as an id, and without a dot at the beginning.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn new(name: &str) -> Result<Self> {
        if name.is_empty() || name.starts_with('.') {
            return Err(Error::invalid(
                format!("volume name {name:?}"),
                "is empty or begins with a dot; choose another",
            ));
        }
        check("volume name", name)?;
        Ok(Self(name.to_owned()))
    }
}

fn check(what: &str, id: &str) -> Result<()> {
    let bad = |reason: &str| Err(Error::invalid(format!("{what} {id:?}"), reason));
    if id.len() > MAX_ID {
        return bad("is longer than 192 bytes");
    }
    if id == "." || id == ".." {
        return bad("is a directory reference");
    }
    if id.starts_with(OWN_PREFIX) {
        return bad("begins with .hutch-, as hutch's own files do");
    }
    // A blank never occurs, so that names of temporary files can carry one.
    if let Some(c) = id.chars().find(|c| !c.is_ascii_graphic() || *c == '/') {
        return bad(&format!("has the character {c:?}; use letters, digits and . _ - +"));
    }
    Ok(())
}

macro_rules! id_traits {
    ($($name:ident),*) => {$(
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}
id_traits!(PodId, ContainerId, VolumeName);

/// `count` random bytes as lower-case hex, from the kernel's generator: for names that are unique.
///
/// # Errors
/// [`Error::InvalidConfig`] if the kernel gives none.
pub fn random_hex(count: usize) -> Result<String> {
    let mut bytes = vec![0; count];
    hutch_vmm::fill_random(&mut bytes)
        .map_err(|e| Error::invalid("random numbers", format!("the kernel gave none: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn p_004_ids_that_could_leave_their_directory_are_refused() {
        let long = "x".repeat(MAX_ID + 1);
        for id in [".", "..", "a/b", "/", "a b", "tab\t", "nul\0", "ümlaut", "line\n", &long] {
            assert_eq!(PodId::new(id).unwrap_err().kind(), ErrorKind::InvalidConfig, "{id:?}");
            assert_eq!(ContainerId::new(id).unwrap_err().kind(), ErrorKind::InvalidConfig, "{id:?}");
        }
        for id in ["a", "web-1", "A_b+c.d", "...", &"x".repeat(MAX_ID)] {
            assert_eq!(PodId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn p_004_a_container_cannot_be_named_like_a_record_of_its_pod() {
        for id in RESERVED_NAMES {
            assert_eq!(ContainerId::new(id).unwrap_err().kind(), ErrorKind::InvalidConfig, "{id:?}");
        }
    }

    /// P-001, P-002.
    #[test]
    fn p_001_empty_ids_have_kinds_of_their_own() {
        assert_eq!(PodId::new("").unwrap_err().kind(), ErrorKind::NeedPodId);
        assert_eq!(ContainerId::new("").unwrap_err().kind(), ErrorKind::NeedContainerId);
    }

    #[test]
    fn random_tokens_differ() {
        assert_ne!(random_hex(8).unwrap(), random_hex(8).unwrap());
        assert_eq!(random_hex(8).unwrap().len(), 16);
    }
}
