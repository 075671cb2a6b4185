//! Namespaces of its own for a process that runs one machine in the foreground, and with them a root directory that holds
//! the machine's shares only. The runtime makes those of a pod's VMM process when it starts that process.
//!
//! | user | shares | namespaces |
//! |---|---|---|
//! | with CAP_SYS_ADMIN | any | mnt, ipc, uts, and net without a network interface |
//! | without | none | the same, below a user namespace that has this user only |
//! | without | some | none: in a user namespace of one user, the files of all others would be nobody's |
//!
//! A process cannot leave its PID namespace. The filters of its threads do not let them signal other processes, and there is no
//! `/proc` of others in the root directory.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{unshare, CloneFlags};
use nix::unistd::{getegid, geteuid};

use super::process::harden_process;
use super::root::{PrivateRoot, RootShare};
use crate::config::MachineConfig;

/// Where the root directory is made ready: nothing that a machine opens by path lies there.
const PLACE: &str = "/sys";

/// The parts of the host that a process has left.
#[derive(Debug, Default)]
pub struct Left {
    /// Kinds of the namespaces that it has of its own, named as in `/proc/PID/ns`.
    pub namespaces: Vec<&'static str>,
    /// The root directory for [`crate::Machine::build_in`].
    pub root: Option<PrivateRoot>,
}

/// Hardens the calling process ([`harden_process`]) and takes it out of the host's namespaces, as far as the kernel lets it and
/// the machine can do without them. With a root directory of its own, the shares of `machine` get their places in that. The
/// process has one thread: those that exist keep the namespaces that they have.
///
/// # Errors
/// The kernel refused to harden the process. That it has no namespaces for it is not an error.
pub fn leave_host(machine: &mut MachineConfig) -> io::Result<Left> {
    let namespaces = enter_namespaces(!machine.nets.is_empty(), !machine.shares.is_empty());
    harden_process()?;
    let root = namespaces.contains(&"mnt").then(|| prepare_root(machine)).flatten();
    Ok(Left { namespaces, root })
}

/// Makes the namespaces and returns their kinds.
fn enter_namespaces(network: bool, shares: bool) -> Vec<&'static str> {
    let mut kinds =
        vec![("mnt", CloneFlags::CLONE_NEWNS), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)];
    if !network {
        kinds.push(("net", CloneFlags::CLONE_NEWNET));
    }
    let all = kinds.iter().fold(CloneFlags::empty(), |all, (_, flag)| all | *flag);
    let names = || kinds.iter().map(|(name, _)| *name).collect();
    match unshare(all) {
        Ok(()) => names(),
        Err(Errno::EPERM) if !shares => {
            let (user, group) = (geteuid().as_raw(), getegid().as_raw());
            match unshare(all | CloneFlags::CLONE_NEWUSER) {
                Ok(()) => {
                    if let Err(error) = map_ids(user, group) {
                        // It is still this user for every file, and need not know its number.
                        log::debug!("the user namespace has no users: {error}");
                    }
                    std::iter::once("user").chain(names()).collect()
                }
                // The host may forbid user namespaces.
                Err(error) => {
                    log::debug!("the machine's process stays in the host's namespaces: {error}");
                    Vec::new()
                }
            }
        }
        Err(error) => {
            log::debug!("not all of the machine's namespaces can be made: {error}");
            kinds.into_iter().filter_map(|(name, flag)| unshare(flag).is_ok().then_some(name)).collect()
        }
    }
}

/// Gives this process's user namespace its user and its group, under their own numbers (user_namespaces(7)).
fn map_ids(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    // Without CAP_SETGID in the outer namespace a group is mapped only after that.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Prepares the root directory, and moves the shares of `machine` there.
fn prepare_root(machine: &mut MachineConfig) -> Option<PrivateRoot> {
    match PrivateRoot::prepare_here(Path::new(PLACE), &RootShare::all_of(machine)) {
        Ok(root) => {
            root.place_shares(machine);
            Some(root)
        }
        // Landlock keeps the same files out of reach.
        Err(error) => {
            log::debug!("the machine's process keeps the host's root directory: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::unistd::{setresuid, Uid};

    use super::super::helper_tests::{check_inside, skip};
    use super::*;
    use crate::config::{NetConfig, ShareConfig, SharePolicy, TapSource};

    fn inode(kind: &str) -> u64 {
        fs::metadata(format!("/proc/thread-self/ns/{kind}")).expect("a mounted /proc").ino()
    }

    fn machine(shares: &[&Path]) -> MachineConfig {
        let share = |path: &&Path| ShareConfig {
            id: "share".into(),
            tag: "share".into(),
            path: path.to_path_buf(),
            read_only: false,
            only: None,
            policy: SharePolicy::default(),
        };
        MachineConfig { shares: shares.iter().map(share).collect(), ..MachineConfig::new("test", "/kernel") }
    }

    /// In a process of its own: what is given up does not come back.
    #[test]
    fn root_leaves_all_namespaces_that_the_machine_does_not_need() {
        check_inside("namespaces::tests::inside_as_root");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside_as_root() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("file"), "text").expect("a temporary file");
        let kinds = ["mnt", "ipc", "uts", "net"];
        let before = kinds.map(inode);
        let mut config = machine(&[dir.path()]);
        let (mac, tap) = ([2, 0, 0, 0, 0, 1], TapSource::Name("tap0".into()));
        config.nets.push(NetConfig { id: "net".into(), tap, mac, mtu: None });
        let with_network = leave_host(&mut config).expect("less is always permitted");
        if !with_network.namespaces.contains(&"mnt") {
            skip("no mount namespace can be made here");
            return println!("checked inside");
        }
        assert_eq!(with_network.namespaces, ["mnt", "ipc", "uts"]);
        assert_eq!(inode("net"), before[3], "its interface is in the caller's");
        assert!(kinds.into_iter().zip(before).take(3).all(|(kind, before)| inode(kind) != before));
        // The share's place until the root directory is entered.
        let root = with_network.root.expect("a root directory");
        assert_eq!(config.shares[0].path, root.share(0));
        assert_eq!(fs::read(config.shares[0].path.join("file")).expect("the share's"), b"text");

        let left = leave_host(&mut machine(&[])).expect("less is always permitted");
        assert_eq!(left.namespaces, kinds);
        let interfaces = fs::read_to_string("/proc/thread-self/net/dev").expect("a mounted /proc");
        let names: Vec<_> = interfaces.lines().skip(2).filter_map(|line| line.split_once(':')).collect();
        assert_eq!(names.iter().map(|(name, _)| name.trim()).collect::<Vec<_>>(), ["lo"], "{interfaces}");
        println!("checked inside");
    }

    #[test]
    fn an_ordinary_user_with_shares_stays_where_the_owners_of_files_have_names() {
        check_inside("namespaces::tests::inside_as_a_user");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside_as_a_user() {
        if geteuid().is_root() {
            let nobody = Uid::from_raw(65534);
            setresuid(nobody, nobody, nobody).expect("root may");
        }
        let kinds = ["user", "mnt", "ipc", "uts", "net"];
        let before = kinds.map(inode);
        let mut config = machine(&[Path::new("/etc")]);
        let left = leave_host(&mut config).expect("less is always permitted");
        assert!(left.namespaces.is_empty() && left.root.is_none());
        assert_eq!((kinds.map(inode), &*config.shares[0].path), (before, Path::new("/etc")));
        // This process has several threads, so that it cannot have a user namespace. A test in a guest has one thread.
        let left = leave_host(&mut machine(&[])).expect("less is always permitted");
        assert!(left.namespaces.is_empty() && left.root.is_none());
        println!("checked inside");
    }
}
