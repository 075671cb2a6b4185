//! The layers of a machine's jail, as they turned out.

use std::fmt::{self, Display, Formatter};

use super::capabilities::{CapabilitySet, FILE_SERVER, IMAGES};
use super::identity::Kept;

/// The layers that confine a machine. Displayed, it is one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailReport {
    /// Threads have filters of system calls.
    pub seccomp: bool,
    /// The version of Landlock that limits the threads' files.
    pub landlock: Option<u32>,
    /// The root directory of the process holds the shares only.
    pub private_root: bool,
    /// The process is not in its caller's namespaces of these kinds, named as in `/proc/PID/ns`. For the process's maker to
    /// fill in: a machine does not make namespaces.
    pub namespaces: Vec<&'static str>,
    /// The user of its own, or why there is none.
    pub identity: Result<u32, Kept>,
    /// The capabilities that some of the threads have.
    pub capabilities: CapabilitySet,
}

/// The line for a machine without a jail.
pub const OFF: &str = "off";

impl Display for JailReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (mut holds, mut missing) = (Vec::new(), Vec::new());
        let mut note = |is: bool, layer: String, lack: &str| match is {
            true => holds.push(layer),
            false => missing.push(lack.to_owned()),
        };
        note(self.seccomp, "seccomp".into(), "seccomp (the kernel has no filters)");
        let version = self.landlock.unwrap_or_default();
        note(self.landlock.is_some(), format!("landlock {version}"), "landlock (the kernel has none)");
        note(self.private_root, "root private".into(), "private root");
        note(!self.namespaces.is_empty(), format!("ns {}", self.namespaces.join(",")), "namespaces");
        match self.identity {
            Ok(id) => holds.push(format!("uid {id}")),
            Err(reason) => missing.push(format!("own uid ({reason})")),
        }
        holds.push(format!("caps {}", Capabilities(self.capabilities)));
        write!(f, "{}", holds.join(", "))?;
        if missing.is_empty() {
            return Ok(());
        }
        write!(f, "; without {}", missing.join(", "))
    }
}

struct Capabilities(CapabilitySet);

impl Display for Capabilities {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(set) = self;
        let (files, images) = (set.and(FILE_SERVER).count(), set.and(IMAGES).count());
        match (files, images) {
            (0, 0) => f.write_str("none"),
            (0, _) => f.write_str("lease"),
            (files, 0) => write!(f, "fs {files}"),
            (files, _) => write!(f, "fs {files} + lease"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_holds_and_what_does_not() {
        let all = JailReport {
            seccomp: true,
            landlock: Some(6),
            private_root: true,
            namespaces: vec!["mnt", "pid", "ipc", "uts", "net"],
            identity: Ok(1_879_050_000),
            capabilities: CapabilitySet::NONE,
        };
        let line = "seccomp, landlock 6, root private, ns mnt,pid,ipc,uts,net, uid 1879050000, caps none";
        assert_eq!(all.to_string(), line);
        let shares = JailReport {
            namespaces: vec!["mnt"],
            identity: Err(Kept::Shares),
            capabilities: FILE_SERVER.with(IMAGES),
            ..all.clone()
        };
        let line =
            "seccomp, landlock 6, root private, ns mnt, caps fs 7 + lease; without own uid (its shares need root)";
        assert_eq!(shares.to_string(), line);
        let none = JailReport {
            seccomp: false,
            landlock: None,
            private_root: false,
            namespaces: Vec::new(),
            identity: Err(Kept::NotRoot),
            capabilities: IMAGES,
        };
        let line =
            "caps lease; without seccomp (the kernel has no filters), landlock (the kernel has none), private root, \
                    namespaces, own uid (not root)";
        assert_eq!(none.to_string(), line);
    }
}
