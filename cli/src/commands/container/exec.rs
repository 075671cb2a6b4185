//! `hutch container exec`.

use hutch_runtime::oci::write_pid_file;
use hutch_runtime::{ExecOptions, Process, Runtime};

use crate::args::container::ExecArgs;
use crate::args::records::RecordArgs;
use crate::attach::Attachment;
use crate::commands::records::{default_runtime, host, run_failure, start_failure, usage_error, wait};
use crate::failure::{Failure, RUN_FAILED};
use crate::resolve;
use crate::tty;

/// Runs a command in a container and returns its exit code (P-198).
pub fn exec(records: &RecordArgs, args: &ExecArgs) -> Result<u8, Failure> {
    try_exec(records, args).map_err(run_failure)
}

fn try_exec(records: &RecordArgs, args: &ExecArgs) -> Result<u8, Failure> {
    let command = resolve::pod::exec(args, &host()?).map_err(usage_error)?;
    let rlimits =
        args.ulimits.iter().map(|text| resolve::ulimit(text)).collect::<Result<_, _>>().map_err(usage_error)?;
    let runtime = default_runtime(records)?;
    let attachment = match args.detach {
        true => None,
        false => Some(Attachment::prepare(args.tty && args.console.is_none(), args.interactive)?),
    };
    let options = ExecOptions { terminal: args.tty.then(tty::size), rlimits };
    let (_, _, process) =
        runtime.exec_container(&args.pod, &args.container, &command, options).map_err(start_failure)?;
    if let Some(path) = &args.pid_file
        && let Err(error) = write_pid_file(path, process.pid)
    {
        runtime.signal_process(&args.pod, &args.container, &process.token, libc::SIGKILL, true)?;
        return Err(error.into());
    }
    let Some(attachment) = attachment else { return Ok(0) };
    let killer = (runtime.clone(), args.pod.clone(), args.container.clone(), process.token.clone());
    attachment.follow(process.pid, move || {
        let (runtime, pod, container, token) = &killer;
        if let Err(error) = runtime.signal_process(pod, container, token, libc::SIGKILL, true) {
            log::warn!("{}", error.chain());
        }
    })?;
    let code = wait_for_end(&runtime, args, &process);
    tty::leave();
    code
}

fn wait_for_end(runtime: &Runtime, args: &ExecArgs, process: &Process) -> Result<u8, Failure> {
    let token = &process.token;
    let exit = wait(None, |slice| runtime.wait_process(&args.pod, &args.container, token, slice))?;
    match runtime.forget_process(&args.pod, &args.container, token) {
        Err(error) if !error.is_not_found() => log::info!("process {token}: {}", error.chain()),
        _ => {}
    }
    let Some(exit) = exit else { return Err(Failure::new(RUN_FAILED, "the wait for the command ended early")) };
    match exit.reason {
        Some(reason) if exit.code.is_none() && exit.signal.is_none() => Err(Failure::new(RUN_FAILED, reason)),
        _ => Ok(exit.shell_code()),
    }
}
