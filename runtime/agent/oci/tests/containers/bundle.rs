//! Root file systems and configurations for the tests of containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use hutch_agent_proto::{Request, Response, StdStream, WindowSize};
use serde_json::{json, Value};

use crate::support::{skip, Control, Guest};

/// Programs of busybox that the tests use.
const APPLETS: [&str; 25] = [
    "sh", "cat", "echo", "ls", "hostname", "sleep", "true", "id", "env", "pwd", "ps", "grep", "head", "stty", "tail",
    "dd", "kill", "seq", "touch", "test", "mkdir", "tr", "tty", "wc", "yes",
];

/// An agent, or none outside of the testbed: the agent mounts a cgroup2 hierarchy over `/sys/fs/cgroup` and leaves it there, with
/// its groups, which only a machine that ends with the tests can bear.
pub fn guest() -> Option<Guest> {
    if hutch_testbed::in_testbed() {
        return Some(Guest::start());
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    skip(
        &test,
        "it changes the control groups of its host, so it runs in the testbed only: cargo xtask testbed --always",
    );
    None
}

/// A root file system of Debian's busybox-static in the guest's directory.
pub fn rootfs(guest: &Guest) -> PathBuf {
    let root = guest.dir.path().join("rootfs");
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "home/joe"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\njoe:x:1000:\nstaff:x:50:\n").unwrap();
    root
}

/// The host's configuration of a container that runs `args`.
pub fn config(guest: &Guest, args: &[&str]) -> Value {
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin", "A=b=c"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": guest.dir.path().join("rootfs"), "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

/// A request to create container `id`, whose process has the same name as token.
pub fn create(id: &str, spec: Value) -> Request {
    Request::CreateContainer {
        id: id.into(),
        token: id.into(),
        spec: Box::new(spec),
        user: None,
        groups: Vec::new(),
        terminal_size: None,
        stdin: false,
    }
}

/// As [`create`], with a stdin stream for the process, and a terminal of `terminal_size` if one is given.
pub fn create_with_stdin(id: &str, spec: Value, terminal_size: Option<WindowSize>) -> Request {
    let (id, token, spec) = (id.to_owned(), id.to_owned(), Box::new(spec));
    Request::CreateContainer { id, token, spec, user: None, groups: Vec::new(), terminal_size, stdin: true }
}

/// An agent without containers, a root file system for them, and a connection that hears of all that happens. None where
/// [`guest`] has none.
pub fn start() -> Option<(Guest, Control)> {
    let guest = guest()?;
    rootfs(&guest);
    let control = guest.watch();
    Some((guest, control))
}

/// Creates and starts a container.
pub fn run(control: &mut Control, id: &str, spec: Value) -> i32 {
    let pid = match control.call(create(id, spec)) {
        Ok(Response::Started { pid }) => pid,
        other => panic!("{other:?}"),
    };
    control.done(Request::StartContainer { id: id.into() });
    pid
}

/// Runs a script in a new container to its end and removes it: exit code, stdout, stderr.
pub fn script(guest: &Guest, control: &mut Control, spec: Value) -> (u8, String, String) {
    run(control, "script", spec);
    let (out, err) = (guest.read("script", StdStream::Stdout), guest.read("script", StdStream::Stderr));
    let status = control.wait("script");
    control.done(Request::RemoveContainer { id: "script".into(), force: false });
    (status.code(), out, err)
}
