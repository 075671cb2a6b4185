//! Mounts that the host asks for. The agent makes each in two steps: it prepares a *detached* mount in its own
//! namespace, which sees the source, then attaches that at the target, there or inside the sandbox. Runs on connection
//! threads.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use hutch_agent_proto::{GuestMount, RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{fstat, SFlag};

use crate::disks;
use crate::failure::{invalid, not_found, system, Outcome};
use crate::modules;
use crate::mount_options::{attribute, parse, MountOptions};
use crate::root::RootDir;
use crate::sys::{attach_mount, c_string, clone_mount, set_mount_attributes, FsContext};

/// Longest path in bytes.
const MAX_PATH: usize = 4096;

/// A mount that is not attached yet. Dropping it unmounts it.
pub struct Detached {
    mount: OwnedFd,
    directory: bool,
}

/// Makes the mount without attaching it.
///
/// # Errors
/// `Invalid`, `NotFound` for a missing source, `Unsupported` if the kernel lacks the file system.
pub fn prepare(mount: &GuestMount) -> Outcome<Detached> {
    check_path("mount target", &mount.target)?;
    let options = parse(&mount.options)?;
    let detached = match mount.fstype.as_str() {
        "bind" => bind(&mount.source, &options)?,
        _ => file_system(mount, &options)?,
    };
    if options.propagation != 0 {
        let (flag, recursive) = (options.propagation, options.propagation_recursive);
        set_mount_attributes(detached.mount.as_fd(), 0, 0, flag, recursive)
            .map_err(|errno| system(format_args!("propagation of mount {:?}", mount.target), errno))?;
    }
    Ok(detached)
}

/// A bind mount of `source`.
///
/// # Errors
/// `NotFound` if the source is missing.
pub fn bind(source: &str, options: &MountOptions) -> Outcome<Detached> {
    check_path("mount source", source)?;
    let failed = |errno| match errno {
        Errno::ENOENT => not_found(format!("mount source {source:?} does not exist in the guest")),
        _ => system(format_args!("binding {source:?}"), errno),
    };
    let path = c_string(source).map_err(failed)?;
    let mount = clone_mount(AT_FDCWD, &path, options.recursive).map_err(failed)?;
    if options.set | options.clear != 0 {
        let (set, clear) = (options.set, options.clear);
        set_mount_attributes(mount.as_fd(), set, clear, 0, options.recursive).map_err(failed)?;
    }
    let directory = fstat(&mount).map_err(failed)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    Ok(Detached { mount, directory })
}

fn file_system(mount: &GuestMount, options: &MountOptions) -> Outcome<Detached> {
    let fstype = mount.fstype.as_str();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if fstype.is_empty() || fstype.len() > 64 || !fstype.bytes().all(plain) {
        return Err(invalid(format!("file system type {fstype:?} is not a name")));
    }
    if fstype == "overlay" {
        make_overlay_directories(options)?;
    }
    let source = disks::source(&mount.source)?;
    let what = format!("mounting {fstype} {source:?}");
    modules::load_for_file_system(fstype);
    let context = c_string(fstype).and_then(|fstype| FsContext::open(&fstype)).map_err(|errno| match errno {
        Errno::ENODEV => {
            let message = format!("{what}: the guest's kernel does not have this file system");
            RemoteError { kind: RemoteErrorKind::Unsupported, message, errno: Some(errno as i32) }
        }
        _ => system(&what, errno),
    })?;
    configure(&context, &source, options).map_err(|errno| match context.complaint() {
        complaint if complaint.is_empty() => system(&what, errno),
        complaint => system(format_args!("{what}: {complaint}"), errno),
    })
}

fn configure(context: &FsContext, source: &str, options: &MountOptions) -> Result<Detached, Errno> {
    if !source.is_empty() {
        context.set(c"source", Some(&c_string(source)?))?;
    }
    for (key, value) in &options.data {
        let value = value.as_deref().map(c_string).transpose()?;
        context.set(&c_string(key.as_str())?, value.as_deref())?;
    }
    if options.read_only {
        context.set(c"ro", None)?;
    }
    Ok(Detached { mount: context.mount(options.set)?, directory: true })
}

/// The upper and work directories of an overlay usually lie on a tmpfs mounted just before.
fn make_overlay_directories(options: &MountOptions) -> Outcome<()> {
    for key in ["upperdir", "workdir"] {
        if let Some(path) = options.value(key) {
            check_path(key, path)?;
            fs::create_dir_all(path).map_err(|error| crate::failure::io(format_args!("{key} {path:?}"), &error))?;
        }
    }
    Ok(())
}

impl Detached {
    /// Attaches the mount at `target` inside `root` and creates the target if it is missing. The calling thread must be
    /// in the mount namespace of `root`.
    ///
    /// # Errors
    /// `System`, with errno `EROFS` if the target is missing and `root` is read-only.
    pub fn attach(&self, root: &RootDir, target: &str) -> Outcome<()> {
        let path = PathBuf::from(target);
        let target_fd = if self.directory { root.make_directory(&path) } else { root.make_file(&path) };
        let target_fd = target_fd.map_err(|errno| system(format_args!("mount target {target:?}"), errno))?;
        attach_mount(self.mount.as_fd(), target_fd.as_fd())
            .map_err(|errno| system(format_args!("attaching the mount at {target:?}"), errno))
    }
}

/// Makes the mount of `root` read-only, but neither the mounts below it nor other mounts of its file system.
pub fn make_read_only(root: &RootDir) -> Result<(), Errno> {
    set_mount_attributes(root.as_fd(), attribute::RDONLY, 0, 0, false)
}

/// Checks an absolute path from the host.
pub fn check_path(what: &str, path: &str) -> Outcome<()> {
    if path.starts_with('/') && path.len() < MAX_PATH && !path.contains('\0') {
        return Ok(());
    }
    Err(invalid(format!("{what} {path:?} is not an absolute path of at most {MAX_PATH} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_before_any_system_call() {
        let mount = |source: &str, target: &str, fstype: &str| GuestMount {
            source: source.into(),
            target: target.into(),
            fstype: fstype.into(),
            options: vec![],
            in_root: false,
        };
        for bad in [
            mount("x", "relative", "tmpfs"),
            mount("x", "/a\0b", "tmpfs"),
            mount("x", "/t", ""),
            mount("x", "/t", "../ext4"),
            mount("relative", "/t", "bind"),
        ] {
            assert_eq!(prepare(&bad).err().unwrap().kind, RemoteErrorKind::Invalid, "{bad:?}");
        }
    }
}
