//! The helper: this program, started again by the agent for one job that forks processes.
//!
//! libcontainer forks intermediate processes and waits for them, changes its working directory and its own
//! attributes. Process 1 has many threads and a reaper that takes every child, so none of that can happen in it. The
//! helper has one thread and its own children; it makes the container's process, tells pid and pidfd over the channel
//! ([`crate::wire`]) and ends, whereupon the process becomes the agent's child like any orphan.

use std::error::Error;
use std::fs::File;
use std::io::stdin;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use hutch_agent::launch::DEFAULT_PATH;
use hutch_agent_proto::{ErrorKind, RemoteError, GUEST_DISK_DIR, GUEST_VOLUME_DIR};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::ContainerStatus;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};

use crate::executor::Execute;
use crate::finish::Finish;
use crate::guest_hooks::HOOK_LIMIT;
use crate::hooks::{self, Hook};
use crate::wire::{channel, send, send_failure, Word};

/// First argument of a helper.
pub const VERB: &str = "__container";
/// In place of the console socket's path: there is no terminal.
pub const NO_CONSOLE: &str = "-";

/// Does a helper's job if this process is one. The exit code then.
pub fn run() -> Option<i32> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(VERB) {
        return None;
    }
    std::panic::set_hook(Box::new(|panic| {
        let _ =
            send_failure(channel(), RemoteError::new(ErrorKind::System, format!("the container's helper: {panic}")));
    }));
    let arguments: Vec<String> = arguments.collect();
    let result = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["create", root, id, bundle, console] => create(root, id, bundle, console).map(Some),
        ["exec", root, id, process, console] => exec(root, id, process, console).map(Some),
        ["hook", program, kind] => hook(program, kind).map(|()| None),
        _ => Err(RemoteError::new(ErrorKind::Invalid, "unknown job for a helper")),
    };
    let sent = match result {
        Ok(Some(pid)) => announce(pid),
        Ok(None) => send(channel(), &Word::Done, None),
        Err(error) => send_failure(channel(), error),
    };
    Some(if sent.is_ok() { 0 } else { 1 })
}

/// Runs a hook of the guest, with our own stdin as its state.
fn hook(program: &str, kind: &str) -> Result<(), RemoteError> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hook = Hook {
        path: program.to_owned(),
        args: vec![name, kind.to_owned()],
        env: vec![format!("PATH={DEFAULT_PATH}")],
        timeout: Some(HOOK_LIMIT.as_secs()),
    };
    let state = stdin().as_fd().try_clone_to_owned().map_err(|error| RemoteError::system("the state", &error))?;
    hooks::run(&hook, File::from(state), None).map_err(|why| RemoteError::new(ErrorKind::System, why))
}

fn builder(root: &str, id: &str, console: &str, finish: Finish) -> Result<ContainerBuilder, LibcontainerError> {
    let console = (console != NO_CONSOLE).then(|| PathBuf::from(console));
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default()).validate_id()?;
    Ok(builder.with_root_path(root)?.with_executor(Execute { finish }).with_console_socket(console))
}

/// Mount points of disks that belong to other containers, in the order they were mounted.
fn disks_of_others(mounts: &str, id: &str) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let others = points.filter(|point| {
        let below =
            [GUEST_DISK_DIR, GUEST_VOLUME_DIR].iter().find_map(|dir| point.strip_prefix(dir)?.strip_prefix('/'));
        below.is_some_and(|below| below.split('/').next() != Some(id))
    });
    others.map(str::to_owned).collect()
}

/// The container's mounts begin as a copy of ours, and as its root is moved over them they stay for as long as it lives.
/// Disks of others must not be among them: they could not be taken away in the meantime.
fn leave_disks_of_others(id: &str) -> Result<(), RemoteError> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| RemoteError::system("mounts", &error))?;
    let others = disks_of_others(&mounts, id);
    if others.is_empty() {
        return Ok(());
    }
    let fail = |errno: Errno| RemoteError::system("leaving other containers' disks", &errno.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(fail)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(fail)?;
    for point in others.iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(fail)?;
    }
    Ok(())
}

/// Makes a container whose init waits. An initramfs cannot be pivoted away, so the root is moved over it.
fn create(root: &str, id: &str, bundle: &str, console: &str) -> Result<i32, RemoteError> {
    let finish = Finish::read(Path::new(bundle))?;
    leave_disks_of_others(id)?;
    let build = || -> Result<i32, LibcontainerError> {
        let init = builder(root, id, console, finish)?.as_init(bundle).with_systemd(false).with_detach(true);
        let mut container = init.with_no_pivot(true).build()?;
        // Processes may enter it from now on (P-121), which libcontainer allows in running ones only. Whether it was
        // started is the agent's to know.
        container.set_status(ContainerStatus::Running).save()?;
        container.pid().map(|pid| pid.as_raw()).ok_or(LibcontainerError::NoDirectory)
    };
    build().map_err(|error| explain("creating the container", &error))
}

/// Starts one more process in a container, whose bundle the description of the process lies in.
fn exec(root: &str, id: &str, process: &str, console: &str) -> Result<i32, RemoteError> {
    let finish = Finish::read(Path::new(process).parent().unwrap_or(Path::new("/")))?.for_later();
    let build = || -> Result<i32, LibcontainerError> {
        let tenant = builder(root, id, console, finish)?.as_tenant().with_process(Some(process)).with_detach(true);
        Ok(tenant.build()?.as_raw())
    };
    build().map_err(|error| explain("entering the container", &error))
}

/// Hands the process over. It is still our child, so its pid cannot have been given to another.
fn announce(pid: i32) -> Result<(), Errno> {
    let pidfd = open_pidfd(pid)?;
    send(channel(), &Word::Made { pid }, Some(pidfd.as_fd()))
}

#[allow(unsafe_code)] // A system call without wrapper.
fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; on success the kernel has made a descriptor for us.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The error for the host: what the configuration is to blame for is told apart from what the system refused.
fn explain(what: &str, error: &LibcontainerError) -> RemoteError {
    use LibcontainerError as E;
    let kind = match error {
        E::IncorrectStatus(_) => ErrorKind::WrongState,
        E::Exist => ErrorKind::AlreadyExists,
        E::NoDirectory => ErrorKind::NotFound,
        E::InvalidSpec(_) | E::MissingSpec(_) | E::InvalidID(_) | E::InvalidInput(_) | E::Spec(_) => ErrorKind::Invalid,
        E::OtherSerialization(_) => ErrorKind::Invalid,
        _ => ErrorKind::System,
    };
    let mut message = format!("{what}: {error}");
    let mut errno = None;
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            errno = io.raw_os_error();
        }
        source = error.source();
    }
    RemoteError { kind, message, errno }
}
