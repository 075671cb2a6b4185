//! Serves host directories to the testbed by virtio-fs, with one virtiofsd process per directory.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::anonymous::{self, Inheritance};
use crate::TestbedError;

/// Debian 12's, from qemu-system-common. (Debian 13 has the Rust one, a package of its own, with other options.)
const PROGRAM: &str = "/usr/lib/qemu/virtiofsd";

/// virtiofsd keeps a descriptor for each file that the testbed has seen, and a source tree has many. Only root may raise its
/// limit.
const MOST_FILES: u32 = 1 << 19;

/// The testbed's access to a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A served directory. Dropping it ends its virtiofsd.
pub(crate) struct Directory {
    /// virtio-fs tag.
    pub(crate) tag: String,
    /// For QEMU: the device's end of the connection.
    pub(crate) socket: Option<UnixStream>,
    log: File,
    process: Child,
}

/// Starts a virtiofsd for `path`.
pub(crate) fn serve(tag: &str, path: &Path, access: Access) -> Result<Directory, TestbedError> {
    // virtiofsd accepts one connection itself. The address is abstract (no file), and we connect before virtiofsd starts, so
    // no other process can be first.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("hutch-testbed-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let connect = || {
        let address = SocketAddr::from_abstract_name(name)?;
        let listener = UnixListener::bind_addr(&address)?;
        Ok((UnixStream::connect_addr(&address)?, listener))
    };
    let (socket, listener) = connect().map_err(TestbedError::system::<std::io::Error>("connect to virtiofsd"))?;
    let log = anonymous::file(c"virtiofsd-log").map_err(TestbedError::system("make a log file"))?;
    let log_copy = log.try_clone().map_err(TestbedError::system("make a log file"))?;
    let (cache, read_only) = match access {
        Access::ReadOnly => ("cache=always", true),
        Access::ReadWrite => ("cache=auto", false),
    };
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--fd={}", anonymous::number(&listener)));
    let mut source = OsString::from("source=");
    source.push(path);
    command.arg("-o").arg(source);
    command.args(["-o", cache, "-o", "sandbox=chroot", "-o", "xattr", "-f"]);
    if nix::unistd::geteuid().is_root() {
        command.arg(format!("--rlimit-nofile={MOST_FILES}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_copy);
    anonymous::bequeath(&mut command, Inheritance { fds: vec![OwnedFd::from(listener)], read_only });
    let process = command.spawn().map_err(|source| TestbedError::Spawn { program: PROGRAM, source })?;
    Ok(Directory { tag: tag.to_owned(), socket: Some(socket), log, process })
}

impl Directory {
    /// virtiofsd's log, if it has failed. (It ends with success when QEMU does.)
    pub(crate) fn death_note(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok().flatten().filter(|status| !status.success())?;
        let log = anonymous::tail(&self.log, 10);
        Some(format!("virtiofsd for {} ended with {status}\n{log}", self.tag))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
