//! The device with the kernel of this host as the guest's: a FUSE mount (fuse(4)) whose requests go through the device's
//! queue. Programs that use it cause the requests that a Linux guest sends, without a machine.
//!
//! Needs root and `/dev/fuse`, and reports that it was skipped without. Each mount is in a mount namespace of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use hutch_file_suites::{installed, Script};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};

use super::client::{config, value, Client};
use super::device::Fs;
use super::sys::is_root;
use super::{FsCache, FsDeviceConfig};
use crate::testing::Descriptor;

/// Room for a request and for a reply: 1 MiB of data and headers.
const ROOM: u32 = (1 << 20) + 4096;
const WRITABLE: u16 = 2;
const NEXT: u16 = 1;

/// Answers the kernel's requests until the file system is unmounted.
fn serve(mut connection: File, mut client: Client) {
    let ram = client.session.ram.again();
    let (request, reply) = (ram.alloc(ROOM.into()), ram.alloc(ROOM.into()));
    let mut buffer = vec![0; ROOM as usize];
    loop {
        let len = match connection.read(&mut buffer) {
            Ok(len) => len,
            // A request was interrupted before it was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(_) => return,
        };
        ram.write(request, &buffer[..len]);
        let header: InHeader = value(&buffer);
        let descriptors = [
            Descriptor { addr: request.0, len: len as u32, flags: NEXT, next: 1 },
            Descriptor { addr: reply.0, len: ROOM, flags: WRITABLE, next: 0 },
        ];
        let head = client.requests().write_chain(&descriptors);
        client.requests().publish(head);
        client.requests().kick();
        let used = client.requests().wait_used();
        let is_silent = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt].map(|opcode| opcode as u32);
        if !is_silent.contains(&header.opcode) {
            let bytes = ram.read(reply, used.len as usize);
            assert_eq!(value::<OutHeader>(&bytes).unique, header.unique);
            // The process may have gone.
            drop(connection.write(&bytes));
        }
    }
}

/// Runs `body` with the path of a mount of `config.path`, if that is possible here.
pub fn mounted(config: FsDeviceConfig, body: impl FnOnce(&Path) + Send + 'static) {
    let connection = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let (true, Ok(connection)) = (is_root(), connection) else {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), b"SKIPPED: a FUSE mount needs root and /dev/fuse\n");
        return;
    };
    let run = move || {
        let target = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // As virtio-fs mounts it: the kernel checks permissions.
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576",
            connection.as_raw_fd()
        );
        mount(Some("share"), target.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        // Without INIT: the kernel sends it.
        let client = Client::new(Fs::new(config).unwrap(), 0);
        let server = thread::spawn(move || serve(connection, client));
        let mount = Unmount(target.path().to_owned());
        body(&mount.0);
        drop(mount);
        server.join().unwrap();
    };
    thread::spawn(run).join().unwrap();
}

/// Unmounts at the end of a test, also of one that fails: otherwise its server would wait for ever.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Runs a script in a directory as a user, whose HOME it is. Returns its output.
pub fn script(directory: &Path, uid: u32, groups: &[u32], text: &str) -> String {
    let mut command = Command::new("/usr/bin/setpriv");
    let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}"));
    command.arg(if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") });
    command.args(["/bin/sh", "-c", text]).current_dir(directory).env("HOME", directory).arg0("setpriv");
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}: {} {out} {error}", output.status);
    out.into_owned()
}

pub fn directory(owner: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        chown(dir.path(), Some(owner), Some(owner)).unwrap();
    }
    dir
}

const FILES: &str = r"
set -e
dd if=/dev/urandom of=big bs=1M count=8 2>/dev/null
cp big copy; cmp big copy; mkdir -p d/e; mv copy d/e/moved; ln d/e/moved second; rm d/e/moved; cmp big second
ln -s second soft; cmp big soft; rm -r d
exec 3<>open; rm open; echo hidden >&3; stat -L -c '%h %s' /proc/self/fd/3
(umask 0; set -C; : > mode); stat -c %a mode
truncate -s 5000000000 sparse; stat -c '%s %b' sparse; fallocate -p -o 0 -l 4096 big; cp --sparse=always sparse sparse2
for i in 1 2 3; do echo $i >> log; done; cat log
mkdir many; seq 1 3000 | (cd many && xargs touch); ls many | wc -l; rm -r many; ls
";

#[test]
fn the_kernel_of_linux_does_all_kinds_of_things_to_files() {
    for cache in [FsCache::Auto, FsCache::Never, FsCache::Always] {
        let dir = directory(0);
        mounted(FsDeviceConfig { cache, ..config(dir.path()) }, move |mount| {
            let text = script(mount, 0, &[], FILES);
            let expected = "0 7\n666\n5000000000 0\n1\n2\n3\n3000\nbig\nlog\nmode\nsecond\nsoft\nsparse\nsparse2\n";
            assert_eq!(text, expected, "{cache:?}");
        });
        assert_eq!(dir.path().join("big").symlink_metadata().map_or(0, |data| data.len()), 8 << 20);
    }
}

/// The kernel sends one supplementary group: the directory's.
#[test]
fn a_user_creates_files_by_a_supplementary_group() {
    let dir = directory(0);
    let group = dir.path().join("g");
    fs::create_dir(&group).unwrap();
    if is_root() {
        chown(&group, Some(0), Some(2000)).unwrap();
    }
    fs::set_permissions(&group, fs::Permissions::from_mode(0o2775)).unwrap();
    mounted(config(dir.path()), |mount| {
        let create = "umask 002; : > g/file && mkdir g/dir && ln -s x g/link && stat -c '%u %g %a' g/file g/dir";
        assert_eq!(script(mount, 1000, &[2000], create), "1000 2000 664\n1000 2000 2775\n");
        // As install(1) does it: the mode comes with the creation, or is changed by the owner, who is a member.
        assert_eq!(script(mount, 1000, &[2000], "chmod 2771 g/file && stat -c %a g/file"), "2771\n");
        script(mount, 1001, &[2001], "! touch g/no && ! mkdir g/no && ! rm -f g/file && ! mv g/file g/other");
        script(mount, 1002, &[2000], "mv g/file g/renamed && rm g/link");
    });
}

/// Runs a script of programs as an ordinary user in a directory of its own. Returns the directory.
fn program(cache: FsCache, tried: Script) -> Option<tempfile::TempDir> {
    if !installed(tried.needs) {
        return None;
    }
    let dir = directory(1000);
    mounted(FsDeviceConfig { cache, ..config(dir.path()) }, move |mount| {
        assert_eq!(script(mount, 1000, &[], &tried.text), tried.prints, "{cache:?}");
    });
    Some(dir)
}

#[test]
fn an_ordinary_user_makes_packs_and_clones_a_repository() {
    if let Some(dir) = program(FsCache::Auto, hutch_file_suites::repository(6)) {
        assert!(!is_root() || fs::metadata(dir.path().join("two/d1/file")).is_ok_and(|data| data.uid() == 1000));
    }
}

#[test]
fn an_ordinary_user_installs_a_package() {
    program(FsCache::Auto, hutch_file_suites::package());
}

#[test]
fn an_ordinary_user_writes_a_database_with_a_log() {
    for cache in [FsCache::Auto, FsCache::Always] {
        program(cache, hutch_file_suites::database());
    }
}
