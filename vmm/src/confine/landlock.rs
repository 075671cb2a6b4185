//! The files that threads may open by path: those of the shares, and the process's own part of `/proc`. Landlock rules (landlock(7)) hold for
//! the thread that takes them on, and for those that it makes from then on.
//!
//! They also refuse to mount, to connect or listen by TCP, ioctls on devices that are opened later and, from Linux 6.12,
//! abstract Unix sockets of processes without these rules. Signals are not among it: before Linux 6.15 a thread could not
//! signal others of its own process that took the rules on by themselves.

use std::path::Path;

use landlock::{
    Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, ABI,
};

use super::root::RootShare;

/// The newest interface that is used. An older kernel does what it can.
const INTERFACE: ABI = ABI::V6;
/// The process's own files: a file server opens a file again that it has a descriptor of, and reads its mounts.
const OWN_PROC: &str = "/proc/self";

/// Why a thread could not be restricted.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel refused a step.
    #[error("Landlock: {0}")]
    Refused(#[from] RulesetError),
    /// A directory cannot be opened that must stay reachable.
    #[error("Landlock: {0}")]
    Open(#[from] landlock::PathFdError),
}

/// Restricts the calling thread to these directories. Returns the version of the interface that does so; `None` if the kernel
/// has none.
///
/// # Errors
/// [`LandlockError`]: the thread is as before.
pub fn restrict_this_thread(reachable: &[RootShare]) -> Result<Option<u32>, LandlockError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(INTERFACE))?
        .handle_access(AccessNet::from_all(INTERFACE))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    let mut ruleset = ruleset.add_rule(beneath(Path::new(OWN_PROC), reading())?)?;
    for RootShare { path, read_only } in reachable {
        ruleset = ruleset.add_rule(beneath(path, if *read_only { reading() } else { serving() })?)?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            Some(effective_abi.min(INTERFACE) as u32)
        }
        _ => None,
    })
}

fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, LandlockError> {
    Ok(PathBeneath::new(PathFd::new(path)?, access))
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// All but running programs, making block devices and ioctls of devices.
fn serving() -> BitFlags<AccessFs> {
    AccessFs::from_all(INTERFACE) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::IoctlDev)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::thread;

    use super::super::helper_tests::skip;
    use super::*;

    /// On a thread of its own, without any other layer: the user, the root directory and the capabilities are as before.
    #[test]
    fn a_thread_reaches_its_directories_and_no_other_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [shared, volume, other] = ["shared", "volume", "other"].map(|name| dir.path().join(name));
        for path in [&shared, &volume, &other] {
            fs::create_dir(path).expect("a new directory");
            fs::write(path.join("file"), "text").expect("a new file");
        }
        let reachable =
            [RootShare { path: shared.clone(), read_only: false }, RootShare { path: volume.clone(), read_only: true }];
        let inside = || {
            match restrict_this_thread(&reachable).expect("restricted") {
                None => return false,
                Some(version) => assert!((1..=INTERFACE as u32).contains(&version), "{version}"),
            }
            let refused = |result: std::io::Result<()>| {
                assert_eq!(result.expect_err("refused").kind(), PermissionDenied);
            };
            fs::write(shared.join("new"), "text").expect("may be changed");
            fs::rename(shared.join("new"), shared.join("newer")).expect("may be changed");
            assert_eq!(fs::read(volume.join("file")).expect("may be read"), b"text");
            refused(fs::write(volume.join("file"), ""));
            refused(fs::read(other.join("file")).map(drop));
            refused(fs::read("/etc/passwd").map(drop));
            refused(fs::read_dir("/").map(drop));
            refused(std::process::Command::new("/bin/true").status().map(drop));
            fs::read("/proc/self/mountinfo").expect("its own");
            thread::scope(|scope| {
                scope.spawn(|| refused(fs::read(other.join("file")).map(drop))).join().expect("no panic")
            });
            true
        };
        let restricted = thread::scope(|scope| scope.spawn(inside).join().expect("no panic"));
        if !restricted {
            skip("this kernel has no Landlock");
        }
        assert_eq!(fs::read(other.join("file")).expect("other threads are as before"), b"text");
    }
}
