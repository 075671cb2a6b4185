//! Limits on the threads of a machine from the moment when the guest runs: the guest may take over one of them.
//!
//! | file | contents |
//! |---|---|
//! | `capabilities` | the capabilities of a thread |
//! | `identity` | the user of a machine without shares |
//! | `landlock` | the files that a thread may open by path |
//! | `namespaces` | those of a process that runs a machine in the foreground |
//! | `process` | what a process gives up as a whole |
//! | `report` | the layers that hold, for people |
//! | `root` | a root directory that holds the shares only |
//! | `seccomp` | the system calls of a thread |
//! | `threads` | the thread that makes the machine's threads |
//! | `tree` | copies of mounts, with their attributes |
//! | `trial` | which layers the kernel grants, tried on threads |

#[cfg(test)]
mod acts_tests;
pub mod capabilities;
#[cfg(test)]
mod helper_tests;
pub mod identity;
pub mod landlock;
pub mod namespaces;
pub mod process;
pub mod report;
pub mod root;
pub mod seccomp;
mod threads;
pub mod tree;
pub mod trial;
#[cfg(test)]
mod whole_tests;

use serde::{Deserialize, Serialize};

use self::capabilities::CapabilitySet;
use self::root::RootShare;
use self::seccomp::Kind;
pub(crate) use threads::{MachineThreads, ThreadRules};

/// The threads that a machine confines before the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// None, for debugging.
    None,
    /// Those that the machine makes. The caller's threads stay as they are: its process does more than hold a machine.
    #[default]
    Threads,
    /// The calling thread too, and with it all threads that it makes afterwards: for a process that holds one machine
    /// and does nothing else.
    Process,
    /// As with [`Self::Process`], for a process that holds one machine and passes the streams and signals of one command on: it
    /// opens no file afterwards, and has no control socket.
    Foreground,
}

impl Confinement {
    /// Whether the threads that the machine makes are confined.
    pub fn confines_threads(self) -> bool {
        self != Self::None
    }

    /// The kind of the calling thread afterwards, if it is confined.
    pub(crate) fn caller(self) -> Option<Kind> {
        match self {
            Self::None | Self::Threads => None,
            Self::Process => Some(Kind::Owner),
            Self::Foreground => Some(Kind::Foreground),
        }
    }
}

/// Restricts the calling thread, and those that it makes from now on, to opening files of these shares. Returns the version of
/// Landlock that does so.
fn reach_only(shares: &[RootShare]) -> Option<u32> {
    match landlock::restrict_this_thread(shares) {
        Ok(Some(version)) => return Some(version),
        Ok(None) => log::debug!("this kernel has no Landlock: the machine's threads may open every file by path"),
        Err(error) => log::warn!("the machine's threads may open every file by path: {error}"),
    }
    None
}

/// Makes the calling thread one of this user ([`identity::take`]). Returns whether it is.
fn take_identity(id: u32, with_capabilities: bool) -> bool {
    match identity::take(id, with_capabilities) {
        Ok(()) => true,
        // A root of a user namespace that does not have the id.
        Err(error) => {
            log::debug!("a thread of the machine stays root's: it cannot be that of user {id}: {error}");
            false
        }
    }
}

/// Takes all capabilities but these from the calling thread, for good. Returns those that it has.
fn keep_only(keep: CapabilitySet) -> CapabilitySet {
    keep.limit_this_thread().unwrap_or_else(|error| {
        // A filter around this process may forbid it.
        log::warn!("a thread of the machine keeps its capabilities: {error}");
        keep
    })
}
