//! `hutch pod create` and `hutch pod run`.

use std::io::{self, Write};
use std::path::Path;

use hutch_guest::{KernelChoice, PodAssets};
use hutch_runtime::oci::write_pid_file;
use hutch_runtime::spec::{HypervisorConfig, HypervisorKind};
use hutch_runtime::{DeleteOptions, PodHandle, Runtime, StopOptions};

use crate::args::pod::{NewPod, RunPod};
use crate::args::records::RecordArgs;
use crate::attach::Attachment;
use crate::commands::records::{host, options, run_failure, runtime, start_failure, usage_error, wait};
use crate::failure::{Failure, RUN_FAILED};
use crate::resolve::{self, PodPlan};
use crate::tty;

/// Kernel and initrd of a pod without a machine.
const NO_FILE: &str = "/dev/null";

/// Creates a pod and prints its id.
pub fn create(records: &RecordArgs, args: &NewPod) -> Result<u8, Failure> {
    let plan = resolve::pod::pod(args, &host()?).map_err(usage_error)?;
    let runtime = runtime(records, options(args.boot_timeout.as_deref(), None)?);
    let pod = create_planned(&runtime, plan)?;
    write_pid(&runtime, &pod, args.container.pid_file.as_deref())?;
    writeln!(io::stdout(), "{}", pod.id())?;
    Ok(0)
}

/// Creates and starts a pod. With `--rootfs`, waits for its command.
pub fn run(records: &RecordArgs, args: &RunPod) -> Result<u8, Failure> {
    if args.detach || args.pod.config.is_some() {
        return run_detached(records, args);
    }
    run_attached(records, args).map_err(run_failure)
}

fn run_detached(records: &RecordArgs, args: &RunPod) -> Result<u8, Failure> {
    let plan = resolve::pod::pod(&args.pod, &host()?).map_err(usage_error)?;
    let runtime = runtime(records, options(args.pod.boot_timeout.as_deref(), None)?);
    let pod = create_planned(&runtime, plan)?;
    // A pod that cannot be started stays, so that the user can examine it (P-074).
    runtime.start_pod(pod.id())?;
    write_pid(&runtime, &pod, args.pod.container.pid_file.as_deref())?;
    writeln!(io::stdout(), "{}", pod.id())?;
    Ok(0)
}

fn run_attached(records: &RecordArgs, args: &RunPod) -> Result<u8, Failure> {
    let mut plan = resolve::pod::pod(&args.pod, &host()?).map_err(usage_error)?;
    let flags = &args.pod.container;
    plan.config.containers.iter_mut().for_each(|container| container.command.detach = false);
    let runtime = runtime(records, options(args.pod.boot_timeout.as_deref(), None)?);
    let attachment = Attachment::prepare(flags.tty && flags.console.is_none(), flags.interactive)?;
    let pod = create_planned(&runtime, plan)?;
    let result = start_and_wait(&runtime, &pod, attachment, flags.pid_file.as_deref());
    tty::leave();
    let cleared = match args.keep {
        true => runtime.stop_pod(pod.id(), StopOptions::forced()).map(drop),
        false => runtime.delete_pod(pod.id(), DeleteOptions { force: true }).map(drop),
    };
    match (result, cleared) {
        (Ok(_), Err(error)) => Err(error.into()),
        (result, Err(error)) => {
            log::warn!("{}", error.chain());
            result
        }
        (result, Ok(())) => result,
    }
}

/// Starts the pod's only container, which uses this program's standard streams, and waits for its end.
fn start_and_wait(
    runtime: &Runtime,
    pod: &PodHandle,
    attachment: Attachment,
    pid_file: Option<&Path>,
) -> Result<u8, Failure> {
    let (id, container) = (pod.id(), only_container(pod)?);
    runtime.start_pod(id).map_err(start_failure)?;
    write_pid(runtime, pod, pid_file)?;
    let pid = runtime.status_container(id, container)?.pid;
    let killer = (runtime.clone(), id.to_owned(), container.to_owned());
    attachment.follow(pid, move || {
        let (runtime, pod, container) = &killer;
        if let Err(error) = runtime.kill_container(pod, container, libc::SIGKILL, true) {
            log::warn!("{}", error.chain());
        }
    })?;
    let exit = wait(None, |slice| runtime.wait_container(id, container, slice))?;
    let Some(exit) = exit else { return Err(Failure::new(RUN_FAILED, "the wait for the command ended early")) };
    match exit.reason {
        Some(reason) if exit.code.is_none() && exit.signal.is_none() => Err(Failure::new(RUN_FAILED, reason)),
        _ => Ok(exit.shell_code()),
    }
}

fn only_container(pod: &PodHandle) -> Result<&str, Failure> {
    let first = pod.containers().first();
    first.map(String::as_str).ok_or_else(|| Failure::new(RUN_FAILED, format!("pod {} has no container", pod.id())))
}

/// Creates the pod of a plan. Ids of containers must be unique on the host (P-192).
fn create_planned(runtime: &Runtime, plan: PodPlan) -> Result<PodHandle, Failure> {
    let mut config = plan.config;
    for container in config.containers.iter().filter(|container| !container.id.is_empty()) {
        runtime.check_unused(&container.id)?;
    }
    let can_grow = fill_assets(runtime, &mut config.hypervisor, plan.kernel, &plan.guest_dir)?;
    if can_grow && config.hypervisor.max_memory_mib == 0 {
        config.hypervisor.max_memory_mib = plan.max_memory_mib;
    }
    Ok(runtime.create_pod(config)?)
}

/// Fills in the kernel and initramfs that the configuration does not name. Returns whether the guest's kernel is known
/// to support memory hotplug.
fn fill_assets(
    runtime: &Runtime,
    machine: &mut HypervisorConfig,
    choice: Option<KernelChoice>,
    dir: &Path,
) -> Result<bool, Failure> {
    let has_kernel = !machine.kernel.as_os_str().is_empty();
    let has_root = machine.initrd.is_some() || machine.image.is_some();
    if machine.kind == HypervisorKind::None {
        if !has_kernel {
            machine.kernel = NO_FILE.into();
        }
        if !has_root {
            machine.initrd = Some(NO_FILE.into());
        }
        return Ok(false);
    }
    let choice = match choice {
        None if has_kernel && has_root => return Ok(false),
        None if has_kernel => KernelChoice::Path(machine.kernel.clone()),
        None => KernelChoice::default(),
        Some(choice) => choice,
    };
    let assets = PodAssets::open(dir, choice, || {
        let files = runtime.boot_files();
        files.map_err(|error| log::debug!("old guest assets are kept: {}", error.chain())).ok()
    })?;
    machine.kernel = assets.kernel;
    if !has_root {
        machine.initrd = Some(assets.initrd);
    }
    Ok(assets.can_grow)
}

/// Writes the PID file, as the last step (P-197). Removes the pod if that fails.
fn write_pid(runtime: &Runtime, pod: &PodHandle, pid_file: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = pid_file else { return Ok(()) };
    let pid = runtime.status_container(pod.id(), only_container(pod)?)?.pid;
    let written = write_pid_file(path, pid);
    if written.is_err()
        && let Err(error) = runtime.delete_pod(pod.id(), DeleteOptions { force: true })
    {
        log::warn!("cannot remove pod {} after the failure: {}", pod.id(), error.chain());
    }
    Ok(written?)
}
