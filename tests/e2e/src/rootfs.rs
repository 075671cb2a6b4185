//! A small root file system, made from Debian's busybox-static.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch_dir;

/// Applets that the tests use.
const APPLETS: [&str; 47] = [
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mount",
    "mv",
    "nc",
    "nproc",
    "od",
    "ping",
    "poweroff",
    "ps",
    "pwd",
    "rm",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "stat",
    "stty",
    "sync",
    "tail",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "yes",
    "wc",
];

/// A root directory on the host. Dropping it removes the directory.
pub struct RootFs {
    dir: tempfile::TempDir,
}

impl RootFs {
    /// A new directory with busybox, two users and the usual mount points.
    pub fn new() -> RootFs {
        let dir = tempfile::Builder::new().prefix("hutch-rootfs-").tempdir_in(scratch_dir()).expect("a directory");
        let root = dir.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("permissions of the root");
        for sub in ["bin", "dev", "etc", "home/user", "mnt", "proc", "root", "sys", "tmp", "var"] {
            fs::create_dir_all(root.join(sub)).expect("a directory of the root");
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("permissions of tmp");
        fs::copy(busybox(), root.join("bin/busybox")).expect("a copy of busybox");
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).expect("a link to busybox");
        }
        let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("a file of the root");
        write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n");
        write("etc/group", "root:x:0:\nuser:x:1000:\naudio:x:29:user\n");
        write("etc/hostname", "rootfs\n");
        write("etc/not-executable", "just text\n");
        RootFs { dir }
    }

    /// The directory on the host.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path on the host of a file in this root.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// Writes an executable script.
    pub fn script(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).expect("a script");
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).expect("an executable script");
    }

    /// An initrd with this root file system's present contents and the script `init` as pid 1.
    pub fn initrd(&self, init: &str) -> PathBuf {
        self.script("/init", init);
        let archive = tempfile::NamedTempFile::new_in(scratch_dir()).expect("a file").into_temp_path();
        let script = "cd \"$1\" && find . | cpio -o -H newc --quiet > \"$2\" && mv \"$2\" initrd.cpio";
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).args([self.path(), &archive]);
        assert!(command.status().expect("sh runs").success(), "cpio failed");
        self.at("/initrd.cpio")
    }
}

impl Default for RootFs {
    fn default() -> Self {
        Self::new()
    }
}

/// Debian's busybox-static. A dynamically linked one would not run in a root without libraries.
fn busybox() -> PathBuf {
    let path = Path::new("/bin/busybox");
    let output = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", "busybox-static"]).output();
    let installed = output.is_ok_and(|o| o.stdout == b"installed");
    assert!(installed && path.exists(), "busybox-static is not installed: run `cargo xtask setup`");
    path.to_owned()
}
