//! The mounts of the emulated host. `main` calls each function once, in this order.

use std::os::unix::fs::symlink;
use std::path::Path;

use hutch_testbed::{Job, HOST_TAG, OWN_FILES};
use nix::mount::{mount, MsFlags};

use crate::Result;

const NONE: Option<&str> = None;

/// Mounts the pseudo file systems on the initramfs.
pub(crate) fn basics() -> Result<()> {
    for (fstype, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        attach(fstype, target, fstype, MsFlags::empty(), "")?;
    }
    Ok(())
}

/// Stacks a tmpfs on the host's root directory and makes the result `/`.
pub(crate) fn enter_host_root() -> Result<()> {
    attach(HOST_TAG, "/host", "virtiofs", MsFlags::MS_RDONLY, "")?;
    attach("layer", "/layer", "tmpfs", MsFlags::empty(), "mode=755")?;
    for dir in ["/layer/upper", "/layer/work"] {
        make_dir(dir)?;
    }
    let options = "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work";
    attach("overlay", "/root", "overlay", MsFlags::empty(), options)?;
    let own = format!("/root{OWN_FILES}");
    make_dir(&own)?;
    mount(Some("/layer/upper"), own.as_str(), NONE, MsFlags::MS_BIND, NONE)
        .map_err(|e| format!("showing {own}: {e}"))?;
    for dir in ["/dev", "/proc", "/sys"] {
        let target = format!("/root{dir}");
        make_dir(&target)?;
        mount(Some(dir), target.as_str(), NONE, MsFlags::MS_MOVE, NONE).map_err(|e| format!("moving {dir}: {e}"))?;
    }
    std::env::set_current_dir("/root")?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(|e| format!("moving the root: {e}"))?;
    nix::unistd::chroot(".").map_err(|e| format!("chroot into the host's root: {e}"))?;
    std::env::set_current_dir("/")?;
    // Tests of containers and overlays expect mounts to propagate, as on a host with systemd.
    mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE).map_err(|e| format!("sharing mounts: {e}"))?;
    Ok(())
}

/// Mounts the other file systems of a Debian host, and the job's shares.
pub(crate) fn rest(job: &Job) -> Result<()> {
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "gid=5,mode=620,ptmxmode=666")?;
    attach("shm", "/dev/shm", "tmpfs", guarded, "mode=1777")?;
    attach("run", "/run", "tmpfs", guarded, "mode=755")?;
    make_dir("/run/lock")?;
    let cgroup_options = "nsdelegate,memory_recursiveprot";
    attach("cgroup2", "/sys/fs/cgroup", "cgroup2", guarded | MsFlags::MS_NOEXEC, cgroup_options)?;
    // Nearly all tests run without these; a test that needs one reports that it is missing.
    for (fstype, target) in [
        ("mqueue", "/dev/mqueue"),
        ("bpf", "/sys/fs/bpf"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        if let Err(error) = attach(fstype, target, fstype, MsFlags::empty(), "") {
            eprintln!("testbed-init: left out: {error}");
        }
    }
    // Our root is an overlay, and an overlay cannot be the upper directory of another.
    for target in ["/scratch", "/var/lib/containers", "/var/lib/containerd"] {
        attach("scratch", target, "tmpfs", MsFlags::empty(), "mode=755")?;
    }
    for (link, target) in
        [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")]
    {
        symlink(target, link).map_err(|e| format!("linking {link}: {e}"))?;
    }
    if let Some(modules) = &job.modules {
        let release = nix::sys::utsname::uname().map_err(|e| format!("uname: {e}"))?;
        let target = Path::new("/lib/modules").join(release.release());
        std::fs::create_dir_all(&target)?;
        mount(Some(modules), &target, NONE, MsFlags::MS_BIND, NONE)
            .map_err(|e| format!("showing {} as {}: {e}", modules.display(), target.display()))?;
    }
    for share in &job.shares {
        let target = share.path.to_str().ok_or("a share's path is not UTF-8")?;
        attach(&share.tag, target, "virtiofs", MsFlags::empty(), "")?;
    }
    Ok(())
}

fn attach(source: &str, target: &str, fstype: &str, flags: MsFlags, options: &str) -> Result<()> {
    make_dir(target)?;
    let options = Some(options).filter(|o| !o.is_empty());
    mount(Some(source), target, Some(fstype), flags, options)
        .map_err(|e| format!("mounting {fstype} on {target}: {e}").into())
}

fn make_dir(path: &str) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| format!("creating {path}: {e}").into())
}
