//! `hutch container`: containers, through the runtime.

mod exec;
pub(super) mod show;

use std::io::{self, Write};

use hutch_runtime::oci::write_pid_file;
use hutch_runtime::{ListProcessesOptions, Runtime, StopOptions};

use super::records::{default_runtime, each, host, options, runtime, usage_error, wait, TIMED_OUT};
use super::stop::stop_options;
use crate::args::container::{
    ContainerArgs, ContainerCommand, KillArgs, NewContainer, PsArgs, RemoveContainers, StopContainers, UpdateArgs,
    WaitContainer,
};
use crate::args::records::RecordArgs;
use crate::failure::Failure;
use crate::resolve;

/// Runs `hutch container …` and returns the exit code.
pub fn run(args: ContainerArgs) -> Result<u8, Failure> {
    let records = &args.records;
    match args.what {
        ContainerCommand::Create(new) => create(&default_runtime(records)?, &new),
        ContainerCommand::Start(ids) => {
            let runtime = default_runtime(records)?;
            each(&ids.containers, |container| Ok(runtime.start_container(&ids.pod, container).map(drop)?))
        }
        ContainerCommand::Stop(stop) => self::stop(records, &stop),
        ContainerCommand::Rm(rm) => remove(&default_runtime(records)?, &rm),
        ContainerCommand::Exec(args) => exec::exec(records, &args),
        ContainerCommand::Kill(args) => kill(&default_runtime(records)?, &args),
        ContainerCommand::Ps(args) => processes(&default_runtime(records)?, args),
        ContainerCommand::Status(show) => show::status(&default_runtime(records)?, &show),
        ContainerCommand::Wait(args) => self::wait_container(&default_runtime(records)?, &args),
        ContainerCommand::Stats(show) => show::stats(&default_runtime(records)?, &show),
        ContainerCommand::Update(args) => update(&default_runtime(records)?, &args),
        ContainerCommand::Ls(list) => show::list(&default_runtime(records)?, &list),
    }
}

/// Creates a container and prints its id. Writes the PID file last (P-197).
fn create(runtime: &Runtime, args: &NewContainer) -> Result<u8, Failure> {
    let config = resolve::pod::new_container(args, &host()?).map_err(usage_error)?;
    if let Err(error) = runtime.check_unused(&config.id) {
        // A missing pod is the more important error.
        runtime.status_pod(&args.pod)?;
        return Err(error.into());
    }
    let (_, container) = runtime.create_container(&args.pod, config)?;
    if let Some(path) = &args.container.pid_file
        && let Err(error) = write_pid_file(path, container.pid())
    {
        if let Err(error) = runtime.delete_container(&args.pod, container.id()) {
            log::warn!("cannot remove container {} after the failure: {}", container.id(), error.chain());
        }
        return Err(error.into());
    }
    writeln!(io::stdout(), "{}", container.id())?;
    Ok(0)
}

fn stop(records: &RecordArgs, args: &StopContainers) -> Result<u8, Failure> {
    let runtime = runtime(records, options(None, args.how.timeout.as_deref())?);
    let options = stop_options(&args.how)?;
    let pod = &args.ids.pod;
    each(&args.ids.containers, |container| Ok(runtime.stop_container(pod, container, options).map(drop)?))
}

fn remove(runtime: &Runtime, args: &RemoveContainers) -> Result<u8, Failure> {
    let pod = &args.ids.pod;
    each(&args.ids.containers, |container| {
        let removed = match args.force {
            true => runtime
                .stop_container(pod, container, StopOptions::forced())
                .and_then(|_| runtime.delete_container(pod, container)),
            false => runtime.delete_container(pod, container),
        };
        match removed {
            Err(error) if args.force && error.is_not_found() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    })
}

/// Sends a signal and does nothing else (P-199).
fn kill(runtime: &Runtime, args: &KillArgs) -> Result<u8, Failure> {
    let signal = hutch_runtime::spec::parse_signal(&args.signal)?;
    runtime.kill_container(&args.pod, &args.container, signal, args.all)?;
    Ok(0)
}

/// Prints the guest's list unmodified (P-150).
fn processes(runtime: &Runtime, args: PsArgs) -> Result<u8, Failure> {
    let options = ListProcessesOptions { format: args.format, args: args.args };
    let list = runtime.list_processes(&args.pod, &args.container, &options)?;
    let mut out = io::stdout().lock();
    out.write_all(&list)?;
    if !list.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(0)
}

fn wait_container(runtime: &Runtime, args: &WaitContainer) -> Result<u8, Failure> {
    let seconds = |text| resolve::pod::seconds("--timeout", text).map_err(usage_error);
    let timeout = args.timeout.as_deref().map(seconds).transpose()?;
    // Without a shim the runtime answers at once.
    match wait(timeout, |slice| runtime.wait_container(&args.pod, &args.container, slice))? {
        Some(exit) => {
            if let (None, None, Some(reason)) = (exit.code, exit.signal, &exit.reason) {
                eprintln!("hutch: container {}: {reason}", args.container);
            }
            Ok(exit.shell_code())
        }
        None => {
            eprintln!("hutch: container {} has not ended", args.container);
            Ok(TIMED_OUT)
        }
    }
}

fn update(runtime: &Runtime, args: &UpdateArgs) -> Result<u8, Failure> {
    let limits = resolve::pod::limits(&args.limits).map_err(usage_error)?;
    runtime.update_container(&args.pod, &args.container, &limits)?;
    Ok(0)
}
