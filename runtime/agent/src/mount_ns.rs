//! The mount namespace of the sandbox's processes, with a root directory of its own.
//!
//! The agent makes the namespace once, on a thread that enters it, mounts the file systems and ends; a descriptor keeps
//! the namespace alive. The agent makes it before the host's mounts, so that it contains only mounts that are meant for
//! it. The root is moved over `/` and entered with chroot, since an initramfs cannot be pivoted away; below it lie the
//! agent's own file systems.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use hutch_agent_proto::{RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::fcntl::{open, OFlag, AT_FDCWD};
use nix::mount::{mount, MsFlags};
use nix::sched::{setns, unshare, CloneFlags};
use nix::sys::stat::{makedev, mknod, umask, Mode, SFlag};
use nix::unistd::{chroot, fchdir, mkdir};

use crate::failure::{system, Outcome};
use crate::mounts::{make_read_only, Detached};
use crate::root::RootDir;
use crate::sys::{attach_mount, c_string, clone_mount, set_mount_attributes};

/// A detached mount and its target inside the root.
pub struct Placed {
    pub mount: Detached,
    pub target: String,
    /// A target that cannot be created is a warning, not an error.
    pub optional: bool,
}

/// The file systems of a sandbox.
pub struct SandboxMounts<'a> {
    /// The root directory, as a path of the agent.
    pub root: &'a str,
    /// Make the root read-only after all mounts.
    pub read_only: bool,
    /// Mounts in their order, after the standard file systems.
    pub mounts: Vec<Placed>,
}

/// A root directory, and the mount namespace that processes must enter to see it.
pub struct MountNs {
    root: RootDir,
    namespace: Option<OwnedFd>,
}

impl MountNs {
    /// The agent's own root and namespace.
    pub fn initial() -> Result<Self, Errno> {
        Ok(Self { root: RootDir::open(Path::new("/"))?, namespace: None })
    }

    /// The directory that processes see as `/`.
    pub fn root(&self) -> &RootDir {
        &self.root
    }

    /// The mount namespace that processes must enter.
    pub fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespace.as_ref().map(AsFd::as_fd)
    }

    /// Mounts the sandbox's file systems in `namespace`, a copy of the agent's. Returns warnings too: the mounts that a
    /// read-only root has no directory for. On failure the namespace goes away with all mounts.
    pub fn setup_mounts(namespace: OwnedFd, mounts: &SandboxMounts) -> Outcome<(Self, Vec<String>)> {
        let root = mounts.root;
        let failed = |errno| system(format_args!("sandbox root {root:?}"), errno);
        let tree = c_string(root).and_then(|path| clone_mount(AT_FDCWD, &path, true)).map_err(failed)?;
        inside(namespace.as_fd(), || {
            enter_root(&tree).map_err(failed)?;
            let mut warnings = standard_mounts()?;
            let root = RootDir::open(Path::new("/")).map_err(failed)?;
            for placed in &mounts.mounts {
                match placed.mount.attach(&root, &placed.target) {
                    Err(error) if placed.optional => warnings.push(error.message),
                    result => result?,
                }
            }
            if mounts.read_only {
                make_read_only(&root).map_err(|errno| system("making the sandbox root read-only", errno))?;
            }
            Ok((root, warnings))
        })
        .map(|(root, warnings)| (Self { root, namespace: Some(namespace) }, warnings))
    }

    /// Attaches a mount inside the sandbox.
    pub fn attach(&self, mount: &Detached, target: &str) -> Outcome<()> {
        self.inside(|| mount.attach(&self.root, target))
    }

    /// Runs `act` on a thread inside the sandbox.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        match self.namespace() {
            Some(namespace) => inside(namespace, act),
            None => act(),
        }
    }
}

/// A copy of the calling thread's mount namespace, for [`MountNs::set_up`]. Spawned before the host's mounts, so that
/// they are not in it.
pub fn new_mount_namespace() -> Outcome<OwnedFd> {
    on_own_thread(|| {
        let make = || -> Result<OwnedFd, Errno> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let everything = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, everything, None::<&str>)?;
            open("/proc/thread-self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        };
        make().map_err(|errno| system("making a mount namespace", errno))
    })
}

/// Runs `act` on a thread inside `namespace`.
fn inside<T: Send>(namespace: BorrowedFd, act: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    on_own_thread(|| {
        let entered = unshare(CloneFlags::CLONE_FS).and_then(|()| setns(namespace, CloneFlags::CLONE_NEWNS));
        entered.map_err(|errno| system("entering the sandbox", errno))?;
        act()
    })
}

/// Runs `act` on a thread that ends afterwards, since a thread cannot go back to its old namespace.
fn on_own_thread<T: Send>(act: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(crate::thread::STACK).spawn_scoped(scope, act);
        let thread = thread.map_err(|error| crate::failure::io("starting a thread", &error))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Puts `tree` over the root of the calling thread's namespace and enters it.
fn enter_root(tree: &OwnedFd) -> Result<(), Errno> {
    set_mount_attributes(tree.as_fd(), 0, 0, libc::MS_PRIVATE, true)?;
    attach_mount(tree.as_fd(), RootDir::open(Path::new("/"))?.as_fd())?;
    fchdir(tree)?;
    chroot(".")
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);
/// Type, mount point, flags and options of the file systems that users of containers expect.
const STANDARD: &[(&str, &str, MsFlags, &str)] = &[
    ("proc", "/proc", SAFE, ""),
    ("sysfs", "/sys", SAFE, ""),
    ("cgroup2", "/sys/fs/cgroup", SAFE, ""),
    ("tmpfs", "/dev", MsFlags::MS_NOSUID.union(MsFlags::MS_STRICTATIME), "mode=755,size=65536k"),
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", SAFE, "mode=1777"),
    ("mqueue", "/dev/mqueue", SAFE, ""),
];
const NODES: &[(&str, u32, u64, u64)] = &[
    ("/dev/null", 0o666, 1, 3),
    ("/dev/zero", 0o666, 1, 5),
    ("/dev/full", 0o666, 1, 7),
    ("/dev/random", 0o666, 1, 8),
    ("/dev/urandom", 0o666, 1, 9),
    ("/dev/tty", 0o666, 5, 0),
    ("/dev/console", 0o620, 5, 1),
];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Mounts the standard file systems in the root that the calling thread has entered.
fn standard_mounts() -> Outcome<Vec<String>> {
    let mut warnings = Vec::new();
    // Of this thread only, since it does not share its `fs` with others.
    umask(Mode::empty());
    for &(fstype, target, flags, data) in STANDARD {
        match standard_mount(fstype, target, flags, data) {
            Ok(()) if target == "/dev" => make_devices()?,
            Ok(()) => {}
            // A missing /dev is reported once, not again for the mounts below it. A kernel need not have all file
            // systems.
            Err(Errno::ENOENT | Errno::EROFS) if target.matches('/').count() > 1 => {}
            Err(Errno::ENODEV) => {}
            Err(Errno::EROFS) => {
                warnings
                    .push(format!("the read-only root has no directory {target}, so {fstype} is not mounted there"));
            }
            Err(errno) => return Err(system(format_args!("mounting {fstype} at {target} of the sandbox"), errno)),
        }
    }
    Ok(warnings)
}

fn standard_mount(fstype: &str, target: &str, flags: MsFlags, data: &str) -> Result<(), Errno> {
    let attempt = || mount(Some(fstype), target, Some(fstype), flags, Some(data));
    match attempt() {
        Err(Errno::ENOENT) => mkdir(target, Mode::from_bits_truncate(0o755)).and_then(|()| attempt()),
        result => result,
    }
}

fn make_devices() -> Outcome<()> {
    let failed = |path: &str, errno| system(format_args!("making {path} of the sandbox"), errno);
    for &(path, mode, major, minor) in NODES {
        let result = mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(major, minor));
        result.map_err(|errno| failed(path, errno))?;
    }
    for (to, path) in LINKS {
        symlink(to, path).map_err(|error| RemoteError {
            kind: RemoteErrorKind::System,
            message: format!("making {path} of the sandbox: {error}"),
            errno: error.raw_os_error(),
        })?;
    }
    Ok(())
}
