//! The helper's side: this program, which the agent starts again for one [`Job`] that forks processes.
//!
//! libcontainer forks intermediate processes and waits for them, and it changes the working directory and attributes of
//! its own process. Process 1 has many threads and a reaper that takes every child, so libcontainer cannot run in it.
//! The helper has one thread and its own children. It makes the container's process, sends pid and pidfd over the
//! channel ([`crate::wire`]) and ends. Then the container's process becomes the agent's child, as any orphan does.

use std::error::Error;
use std::fs::File;
use std::io::stdin;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use hutch_agent::DEFAULT_PATH;
use hutch_agent_proto::{error_chain, RemoteError, RemoteErrorKind, GUEST_DISK_DIR, GUEST_VOLUME_DIR};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::ContainerStatus;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};

use crate::executor::Execute;
use crate::hooks::{self, OciHook};
use crate::job::{HookPoint, Job, HOOK_TIMEOUT, VERB};
use crate::pre_exec::ExecPrep;
use crate::wire::{channel, send, send_failure, Message};

/// Runs the job of a helper and returns its exit code; `None` if this process is not a helper.
pub fn run_job() -> Option<i32> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) != Some(VERB) {
        return None;
    }
    std::panic::set_hook(Box::new(|panic| {
        let _ = send_failure(
            channel(),
            RemoteError::new(RemoteErrorKind::System, format!("the container's helper: {panic}")),
        );
    }));
    let result = match Job::from_args(&args) {
        Some(Job::Create { root, id, bundle, console }) => create(&root, &id, &bundle, console).map(Some),
        Some(Job::Exec { root, id, process, console }) => exec(&root, &id, &process, console).map(Some),
        Some(Job::Hook { program, point }) => hook(&program, point).map(|()| None),
        None => Err(RemoteError::new(RemoteErrorKind::Invalid, "unknown job for a helper")),
    };
    let sent = match result {
        Ok(Some(pid)) => announce(pid),
        Ok(None) => send(channel(), &Message::Done, None),
        Err(error) => send_failure(channel(), error),
    };
    Some(if sent.is_ok() { 0 } else { 1 })
}

/// Runs a hook of the guest, with our own stdin as its state.
fn hook(program: &Path, point: HookPoint) -> Result<(), RemoteError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hook = OciHook {
        path: program.to_string_lossy().into_owned(),
        args: vec![name, point.name().to_owned()],
        env: vec![format!("PATH={DEFAULT_PATH}")],
        timeout: Some(HOOK_TIMEOUT.as_secs()),
    };
    let state = stdin().as_fd().try_clone_to_owned().map_err(|error| RemoteError::system("the state", &error))?;
    hooks::run(&hook, File::from(state), None).map_err(|why| RemoteError::new(RemoteErrorKind::System, why))
}

fn builder(
    root: &Path,
    id: &str,
    console: Option<PathBuf>,
    prep: ExecPrep,
) -> Result<ContainerBuilder, LibcontainerError> {
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default()).validate_id()?;
    Ok(builder.with_root_path(root)?.with_executor(Execute { prep }).with_console_socket(console))
}

/// Mount points of disks that belong to other containers, in the order of their mounts.
fn disks_of_others(mounts: &str, id: &str) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let others = points.filter(|point| {
        let below =
            [GUEST_DISK_DIR, GUEST_VOLUME_DIR].iter().find_map(|dir| point.strip_prefix(dir)?.strip_prefix('/'));
        below.is_some_and(|below| below.split('/').next() != Some(id))
    });
    others.map(str::to_owned).collect()
}

/// Unmounts other containers' disks for the new container. A container starts with a copy of our mount table and keeps
/// it, since its root is moved over it and not pivoted: while it lives, no disk in the table could be detached.
fn unmount_disks_of_others(id: &str) -> Result<(), RemoteError> {
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

/// Makes a container whose init waits, and returns the pid of its init. An initramfs cannot be pivoted away, so the
/// root is moved over it.
fn create(root: &Path, id: &str, bundle: &Path, console: Option<PathBuf>) -> Result<i32, RemoteError> {
    let prep = ExecPrep::read(bundle)?;
    unmount_disks_of_others(id)?;
    let build = || -> Result<i32, LibcontainerError> {
        let init = builder(root, id, console, prep)?.as_init(bundle).with_systemd(false).with_detach(true);
        let mut container = init.with_no_pivot(true).build()?;
        // From now on processes may enter the container (P-121), which libcontainer allows in running ones only. The
        // agent keeps track of whether the container has been started.
        container.set_status(ContainerStatus::Running).save()?;
        container.pid().map(|pid| pid.as_raw()).ok_or(LibcontainerError::NoDirectory)
    };
    build().map_err(|error| explain("creating the container", &error))
}

/// Starts one more process in a container and returns its pid. The file `process` lies in the container's bundle.
fn exec(root: &Path, id: &str, process: &Path, console: Option<PathBuf>) -> Result<i32, RemoteError> {
    let prep = ExecPrep::read(process.parent().unwrap_or(Path::new("/")))?.for_later();
    let build = || -> Result<i32, LibcontainerError> {
        let tenant = builder(root, id, console, prep)?.as_tenant().with_process(Some(process)).with_detach(true);
        Ok(tenant.build()?.as_raw())
    };
    build().map_err(|error| explain("entering the container", &error))
}

/// Sends pid and pidfd to the agent. The process is still our child, so the kernel cannot have reused its pid.
fn announce(pid: i32) -> Result<(), Errno> {
    let pidfd = open_pidfd(pid)?;
    send(channel(), &Message::Spawned { pid }, Some(pidfd.as_fd()))
}

#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; on success the kernel has made a descriptor for us.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The error for the host. Its kind says whether the configuration or the system is at fault.
fn explain(what: &str, error: &LibcontainerError) -> RemoteError {
    use LibcontainerError as E;
    let kind = match error {
        E::IncorrectStatus(_) => RemoteErrorKind::WrongState,
        E::Exist => RemoteErrorKind::AlreadyExists,
        E::NoDirectory => RemoteErrorKind::NotFound,
        E::InvalidSpec(_) | E::MissingSpec(_) | E::InvalidID(_) | E::InvalidInput(_) | E::Spec(_) => {
            RemoteErrorKind::Invalid
        }
        E::OtherSerialization(_) => RemoteErrorKind::Invalid,
        _ => RemoteErrorKind::System,
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let errno =
        causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).last().and_then(|io| io.raw_os_error());
    RemoteError { kind, message: format!("{what}: {}", error_chain(error)), errno }
}
