//! A user and group of its own for a machine that needs none of root's files: one without shares. All that it uses is open
//! by then.
//!
//! The id is [`FIRST_ID`] plus the number of the process, so no account is needed, and no two machines of a PID namespace have the
//! same one. Linux's process numbers end below 2^22, so the ids end below 2^31; local accounts and the ranges of
//! user namespaces that systemd hands out lie elsewhere.
#![expect(unsafe_code, reason = "the functions of libc change the ids of all threads; the system calls those of one")]

use std::io;

use nix::sys::prctl;
use nix::unistd::geteuid;

use super::capabilities::{check, CapabilitySet, IMAGES};

/// The lowest id of a machine.
pub const FIRST_ID: u32 = 0x7000_0000;

/// Why a machine keeps the user that it was started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Only root may take on another user.
    NotRoot,
    /// A file server acts for all users of the guest.
    Shares,
    /// Root without CAP_LEASE, as in many containers: another user could not give back a lease on root's kernel, and a writer to
    /// it would have to wait.
    NoLease,
    /// The kernel refused, for example because the id does not exist in this user namespace.
    Refused,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRoot => "not root",
            Self::Shares => "its shares need root",
            Self::NoLease => "root without CAP_LEASE",
            Self::Refused => "the kernel refused",
        })
    }
}

/// The id for the machine of this process.
///
/// # Errors
/// Why it has none of its own.
pub(super) fn choose(has_shares: bool) -> Result<u32, Kept> {
    if !geteuid().is_root() {
        return Err(Kept::NotRoot);
    }
    if has_shares {
        return Err(Kept::Shares);
    }
    if CapabilitySet::of_this_thread().unwrap_or_default().and(IMAGES) != IMAGES {
        return Err(Kept::NoLease);
    }
    Ok(FIRST_ID.saturating_add(std::process::id()))
}

/// Makes the calling thread one of this user and group, for good, without further groups. It keeps its capabilities only if
/// `with_capabilities`.
///
/// # Errors
/// Those of setresgid(2), setgroups(2) and setresuid(2). The user is as before; after the first call the groups are not.
pub(super) fn take(id: u32, with_capabilities: bool) -> io::Result<()> {
    if with_capabilities {
        prctl::set_keepcaps(true)?;
    }
    let at_parents_death = prctl::get_pdeathsig()?;
    // First the call that fails where the id does not exist.
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: no group is read from the null pointer.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) })?;
    // A change of user clears this signal, by which a supervisor ends what it started.
    prctl::set_pdeathsig(at_parents_death)?;
    // It also sets the flag to the host's fs.suid_dumpable (PR_SET_DUMPABLE(2const)).
    prctl::set_dumpable(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::super::helper_tests::{check_inside, skip};
    use super::*;

    /// In a process of its own, which is not dumpable afterwards.
    #[test]
    fn a_thread_takes_on_a_user_without_groups_and_capabilities() {
        if let Err(reason) = choose(false) {
            return skip(&format!("no user of its own here: {reason}"));
        }
        check_inside("identity::tests::inside");
    }

    fn status() -> BTreeMap<String, String> {
        let text = std::fs::read_to_string("/proc/thread-self/status").expect("a mounted /proc");
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
    }

    fn on_a_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(job).join().expect("no panic"))
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside() {
        let before = status();
        let id = choose(false).expect("root without shares");
        assert_eq!(id, FIRST_ID + std::process::id());
        assert_eq!(choose(true), Err(Kept::Shares));
        let ids = format!("{id} {id} {id} {id}");

        let after = on_a_thread(|| {
            take(id, false).expect("root may");
            assert_eq!(choose(false), Err(Kept::NotRoot), "nor a second time");
            take(0, false).expect_err("there is no way back");
            std::fs::read("/etc/shadow").expect_err("root's own file");
            status()
        });
        assert_eq!((&after["Uid"], &after["Gid"], &*after["Groups"]), (&ids, &ids, ""));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&after[set], 16), Ok(0), "{set}");
        }

        // The thread that makes the others: they get the user from it, and its capability.
        let file = tempfile::tempfile().expect("a temporary file, of root's");
        let lease = |kind: i32| {
            // SAFETY: the call takes numbers only, and the file is open.
            check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }.into())
        };
        lease(libc::F_WRLCK).expect("root's own file");
        on_a_thread(|| {
            take(id, true).expect("root may");
            assert_eq!(IMAGES.limit_this_thread().expect("less is always permitted"), IMAGES);
            on_a_thread(|| {
                assert_eq!((&status()["Uid"], &*status()["CapEff"]), (&ids, "0000000010000000"));
                lease(libc::F_UNLCK).expect("a lease on another's file can be given back");
            });
        });
        let without = on_a_thread(|| {
            CapabilitySet::NONE.limit_this_thread().expect("less is always permitted");
            choose(false)
        });
        assert_eq!(without, Err(Kept::NoLease));
        assert_eq!(status()["Uid"], before["Uid"], "other threads are as before");
        assert!(!prctl::get_dumpable().expect("a flag"));
        println!("checked inside");
    }
}
