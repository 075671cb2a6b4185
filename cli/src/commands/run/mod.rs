//! `hutch run`: runs one command in a virtual machine that this process runs.
//!
//! 1. Resolve the arguments; this finds every mistake.
//! 2. Block signals, open the guest assets.
//! 3. Build and start the machine.
//! 4. Wait for the command; its exit code becomes that of hutch.

mod layout;
mod phases;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use hutch_agent_proto::ExitStatus;
use hutch_guest::GuestAssets;
use hutch_runtime::agent_client::printable;
use hutch_runtime::oneshot::{OneshotEnd, OneshotMachine, OneshotTask, PhaseMarks, RunError, RunEventQueue, Stop};
use hutch_runtime::stdio::StdioFds;
use hutch_runtime::store::DEFAULT_CONFIG_ROOT;
use hutch_runtime::volume::{VolumeHold, Volumes};
use hutch_vmm::confine::namespaces::{leave_host, Left};

use crate::args::run::RunArgs;
use crate::failure::{Failure, RUN_FAILED};
use crate::resolve::{self, Host, RootMode, RootSource, RunPlan};
use crate::signals::Signals;
use crate::tty;
use hutch_agent_proto::error_chain;
use phases::Phases;

/// Exit code if `--timeout` ended the run, as with timeout(1).
const TIMED_OUT: u8 = 124;
/// Exit code if the command cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code if the command does not exist.
const NOT_FOUND: u8 = 127;
/// Lines of the guest's console in an error report.
const CONSOLE_LINES: usize = 20;
/// Longest console line in an error report, in characters.
const CONSOLE_WIDTH: usize = 200;

/// Runs the command. `started`: start of the program in nanoseconds of CLOCK_MONOTONIC.
pub fn run(args: RunArgs, started: u64) -> Result<u8, Failure> {
    let began = Instant::now();
    try_run(args, started, began).map_err(|failure| match failure.code {
        crate::failure::FAILED => failure.with_code(RUN_FAILED),
        _ => failure,
    })
}

fn try_run(args: RunArgs, started: u64, began: Instant) -> Result<u8, Failure> {
    let mut phases = Phases::new(args.verbose, args.marks.clone(), started);
    let mut plan = resolve::run(args, &host()?)?;
    phases.mark("arguments resolved");
    // The volumes cannot be removed while this process lives.
    let _volumes = hold_volumes(&mut plan)?;
    let signals = Signals::block()?;
    let assets = GuestAssets::open(&plan.guest_dir, plan.kernel.clone())?;
    phases.mark("guest assets opened");
    let mut layout = layout::lay_out(&plan, &assets.kernel, &assets.initrd);
    if let Some(beyond_mib) = plan.memory_growth.beyond_mib(assets.can_grow()) {
        layout.machine.memory.grow_beyond(beyond_mib);
    }
    phases.open()?;
    let raw = plan.tty && plan.process.stdin && prepare_raw();
    let Left { namespaces, root } = match plan.jail {
        true => leave_host(&mut layout.machine)?,
        false => Left::default(),
    };
    phases.has_namespaces(namespaces);
    let sandbox = OneshotMachine::launch_in(&layout.machine, root)?;
    // From here on this thread, and those that it makes, open no file.
    phases.mark("machine started");
    let queue = RunEventQueue::new();
    let sender = queue.sender();
    signals.forward(plan.tty, move |event| sender.send(event))?;
    let task = task(&plan, layout, raw, began)?;
    let mut marks = PhaseMarks::default();
    let (result, ended) = sandbox.run(task, &queue, &mut marks);
    tty::leave();
    let shown = phases.report(ended.machine(), &marks);
    let outcome = shown.and_then(|()| outcome(result, &plan, &ended));
    // The machine has stopped and is no longer needed.
    ended.leave();
    outcome
}

/// Creates the named volumes that do not exist, and fills in their directories.
fn hold_volumes(plan: &mut RunPlan) -> Result<Vec<VolumeHold>, Failure> {
    let root = std::env::var_os("HUTCH_ROOT").filter(|dir| !dir.is_empty());
    let root = root.map_or_else(|| PathBuf::from(DEFAULT_CONFIG_ROOT), PathBuf::from);
    let volumes = Volumes::beside(&std::path::absolute(&root).unwrap_or(root));
    let mut holds = Vec::new();
    for volume in &mut plan.volumes {
        let Some(name) = &volume.name else { continue };
        let hold = volumes.hold(name)?;
        volume.source = hold.path().to_owned();
        holds.push(hold);
    }
    Ok(holds)
}

fn host() -> io::Result<Host<'static>> {
    Ok(Host {
        memory_mib: resolve::memory_of_host()?,
        env: &|name| std::env::var_os(name),
        stdin_tty: io::stdin().is_terminal(),
        pid: std::process::id(),
    })
}

/// Whether the terminal can be put into raw mode.
fn prepare_raw() -> bool {
    tty::prepare_raw().inspect_err(|error| log::warn!("cannot put the terminal into raw mode: {error}")).is_ok()
}

fn task(plan: &RunPlan, layout: layout::Layout, raw: bool, began: Instant) -> io::Result<OneshotTask> {
    let mut process = plan.process.clone();
    if plan.tty {
        process.terminal = Some(tty::size());
    }
    let fds = StdioFds {
        stdin: plan.process.stdin.then(|| own(io::stdin())).transpose()?,
        stdout: Some(own(io::stdout())?),
        stderr: Some(own(io::stderr())?),
    };
    Ok(OneshotTask {
        sandbox: layout.sandbox,
        process,
        fds,
        boot_timeout: plan.boot_timeout,
        timeout: plan.timeout.map(|after| (after, began + after)),
        stop: if writes_disks(plan) { Stop::PowerOff } else { Stop::Flush },
        on_start: Box::new(move || {
            if raw && let Err(error) = tty::enter_raw() {
                log::warn!("cannot put the terminal into raw mode: {error}");
            }
        }),
    })
}

/// Whether the guest can write to a disk. Its file system must then be unmounted, or it would look as after a crash.
fn writes_disks(plan: &RunPlan) -> bool {
    let root = matches!(plan.rootfs, RootSource::Disk { .. }) && plan.root_mode == RootMode::ReadWrite;
    root || plan.disks.iter().any(|disk| !disk.read_only)
}

/// A new descriptor for the same open file, whose flags stay unchanged.
fn own(file: impl AsFd) -> io::Result<OwnedFd> {
    file.as_fd().try_clone_to_owned()
}

fn outcome(result: Result<ExitStatus, RunError>, plan: &RunPlan, ended: &OneshotEnd) -> Result<u8, Failure> {
    let error = match result {
        Ok(status) => return Ok(status.code()),
        Err(error) => error,
    };
    let code = match &error {
        RunError::ProgramNotFound { .. } => NOT_FOUND,
        RunError::ProgramNotExecutable { .. } => NOT_EXECUTABLE,
        RunError::Timeout { .. } | RunError::Hung { .. } => TIMED_OUT,
        RunError::Interrupted { signal, .. } => (128 + signal.clamp(&0, &127)) as u8,
        _ => RUN_FAILED,
    };
    if !error.is_guests_fault() {
        return Err(Failure::new(code, error));
    }
    Err(Failure::new(code, GuestFailure { text: error_chain(&error), console: console(plan, ended) }))
}

/// A failure of the guest, with the last lines of its console.
#[derive(Debug, thiserror::Error)]
#[error("{text}{console}")]
struct GuestFailure {
    text: String,
    console: String,
}

fn console(plan: &RunPlan, ended: &OneshotEnd) -> String {
    let lines = ended.machine().console_tail(CONSOLE_LINES);
    match (lines.is_empty(), &plan.console) {
        (true, None) => "\nThe guest wrote nothing to its console; use --console FILE for a verbose one.".to_owned(),
        (true, Some(_)) => "\nThe guest wrote nothing to its console.".to_owned(),
        (false, _) => {
            let lines: Vec<_> = lines.iter().map(|line| format!("  {}", printable(line, CONSOLE_WIDTH))).collect();
            format!("\nLast lines of the guest's console:\n{}", lines.join("\n"))
        }
    }
}
