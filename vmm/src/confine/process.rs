//! A process that holds a machine gives up rights as a whole, before it reads what a guest or an image controls.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{setrlimit, Resource};

use super::capabilities::CapabilitySet;
use super::landlock::restrict_this_thread;
use super::root::RootShare;
use super::seccomp::{self, Kind};

/// Keeps the memory of this process from others of its user: they can neither trace it nor read its `/proc` files but
/// those that everyone may read, and it leaves no core dump. The process and all programs that it starts from now on get
/// no privileges by exec (no_new_privs).
///
/// # Errors
/// The kernel refused; some of it may be done.
pub fn harden_process() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // A core dump that a pipe takes ignores the limit, but not the flag above.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Hardens this process ([`harden_process`]). Leaves the calling thread, which makes all others later, the capabilities and the
/// system calls of this kind and, if `reachable` is given, these directories. A kernel that has or permits less is not an
/// error.
///
/// # Errors
/// The kernel refused to harden the process, or a filter; some of it may be done.
pub fn confine_process(kind: Kind, reachable: Option<&[RootShare]>) -> io::Result<()> {
    harden_process()?;
    // Each by itself, as with a machine.
    match reachable.map(restrict_this_thread) {
        Some(Ok(None)) => log::debug!("this kernel has no Landlock"),
        Some(Err(error)) => log::warn!("the process can open all files of its user: {error}"),
        Some(Ok(Some(_))) | None => {}
    }
    if let Err(error) = CapabilitySet::of(kind, false).limit_this_thread() {
        log::warn!("the process keeps its capabilities: {error}");
    }
    if let Err(error) = seccomp::check_support() {
        log::debug!("this kernel has no seccomp filters: {error}");
        return Ok(());
    }
    seccomp::prepare_process()?;
    seccomp::enter(kind)
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::SHIM;
    use super::super::helper_tests::check_inside;
    use super::*;

    /// In a process of its own: what is given up does not come back.
    #[test]
    fn a_hardened_process_leaves_no_dump_and_gets_no_privileges() {
        check_inside("process::tests::inside");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside() {
        super::harden_process().expect("less is always permitted");
        assert!(!nix::sys::prctl::get_dumpable().expect("a flag"));
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a mounted /proc");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let limits = std::fs::read_to_string("/proc/self/limits").expect("readable for the process itself");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(core.split_whitespace().nth_back(1), Some("0"), "{core}");
        // The process itself still reaches its descriptors.
        std::fs::read_link("/proc/self/fd/0").expect("its own descriptor");
        println!("checked inside");
    }

    #[test]
    fn a_confined_shim_has_its_directories_and_one_capability() {
        check_inside("process::tests::inside_a_shim");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside_a_shim() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [own, other] = ["own", "other"].map(|name| dir.path().join(name));
        for path in [&own, &other] {
            std::fs::create_dir(path).expect("a new directory");
            std::fs::write(path.join("file"), "text").expect("a new file");
        }
        let had = CapabilitySet::of_this_thread().expect("an old interface");
        // Tried on a thread that ends with that.
        let tried = std::thread::spawn(|| restrict_this_thread(&[]).expect("a thread may have less").is_some());
        let has_landlock = tried.join().expect("no panic");
        let reachable = [RootShare { path: own.clone(), read_only: false }];
        confine_process(Kind::Shim, Some(&reachable)).expect("less is always permitted");
        let has = std::thread::spawn(|| CapabilitySet::of_this_thread().expect("an old interface"));
        assert_eq!(has.join().expect("no panic"), SHIM.and(had));
        std::fs::write(own.join("new"), "text").expect("its own directory");
        std::fs::rename(own.join("new"), own.join("newer")).expect("its own directory");
        if has_landlock {
            for path in [other.join("file").as_path(), "/etc/passwd".as_ref(), "/proc/1/status".as_ref()] {
                let error = std::fs::File::open(path).expect_err("not its own");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{}", path.display());
            }
        } else {
            println!("SKIPPED: this kernel has no Landlock");
        }
        println!("checked inside");
        // Without what a test's runner does at its end.
        std::process::exit(0);
    }
}
