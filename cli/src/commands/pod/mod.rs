//! `hutch pod`: pods, through the runtime. Ids and tables go to stdout, everything else to stderr.

mod create;
mod show;

use std::io::{self, Write};
use std::time::Duration;

use hutch_runtime::{DeleteOptions, PodEvent, Runtime};
use serde_json::json;

use super::records::{default_runtime, each, options, runtime, usage_error, wait, TIMED_OUT};
use super::stop::stop_options;
use crate::args::format::Format;
use crate::args::pod::{PodArgs, PodCommand, RemovePods, ShowPod, StopPods, WaitPods};
use crate::args::records::RecordArgs;
use crate::failure::{Failure, FAILED};
use crate::resolve;

/// Longest single wait for an event; longer waits repeat it.
const EVENT_SLICE: Duration = Duration::from_secs(3600);

/// Runs `hutch pod …` and returns the exit code.
pub fn run(args: PodArgs) -> Result<u8, Failure> {
    let records = &args.records;
    match args.what {
        PodCommand::Create(new) => create::create(records, &new),
        PodCommand::Run(run) => create::run(records, &run),
        PodCommand::Start(start) => {
            let runtime = runtime(records, options(start.boot_timeout.as_deref(), None)?);
            each(&start.pods, |pod| Ok(runtime.start_pod(pod).map(drop)?))
        }
        PodCommand::Stop(stop) => self::stop(records, &stop),
        PodCommand::Rm(rm) => remove(records, &rm),
        PodCommand::Ls(list) => show::list(&default_runtime(records)?, &list),
        PodCommand::Status(show) => show::status(&default_runtime(records)?, &show),
        PodCommand::Pause(ids) => {
            let runtime = default_runtime(records)?;
            each(&ids.pods, |pod| Ok(runtime.pause_pod(pod).map(drop)?))
        }
        PodCommand::Resume(ids) => {
            let runtime = default_runtime(records)?;
            each(&ids.pods, |pod| Ok(runtime.resume_pod(pod).map(drop)?))
        }
        PodCommand::Wait(args) => self::wait_pods(records, &args),
        PodCommand::Stats(show) => show::stats(&default_runtime(records)?, &show),
        PodCommand::Events(show) => events(&default_runtime(records)?, &show),
        PodCommand::Cleanup(args) => {
            let done = default_runtime(records)?.cleanup_each(args.dry_run)?;
            for id in done.leftovers {
                writeln!(io::stdout(), "{id}")?;
            }
            Ok(done.refused.into_iter().fold(0, |_, error| Failure::from(error).report()))
        }
    }
}

fn stop(records: &RecordArgs, args: &StopPods) -> Result<u8, Failure> {
    let runtime = runtime(records, options(None, args.how.timeout.as_deref())?);
    let options = stop_options(&args.how)?;
    each(&all_or(&runtime, args.all, &args.pods)?, |pod| Ok(runtime.stop_pod(pod, options).map(drop)?))
}

fn remove(records: &RecordArgs, args: &RemovePods) -> Result<u8, Failure> {
    let runtime = default_runtime(records)?;
    each(&all_or(&runtime, args.all, &args.pods)?, |pod| {
        match runtime.delete_pod(pod, DeleteOptions { force: args.force }) {
            Err(error) if args.force && error.is_not_found() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    })
}

fn all_or(runtime: &Runtime, all: bool, given: &[String]) -> Result<Vec<String>, Failure> {
    match all {
        true => Ok(runtime.list_pods()?.into_iter().map(|pod| pod.id).collect()),
        false => Ok(given.to_vec()),
    }
}

fn wait_pods(records: &RecordArgs, args: &WaitPods) -> Result<u8, Failure> {
    let runtime = default_runtime(records)?;
    let seconds = |text| resolve::pod::seconds("--timeout", text).map_err(usage_error);
    let timeout = args.timeout.as_deref().map(seconds).transpose()?;
    let mut code = 0;
    for pod in &args.pods {
        match wait(timeout, |slice| runtime.wait_pod(pod, slice))? {
            None => {
                eprintln!("hutch: pod {pod} has not stopped");
                return Ok(TIMED_OUT);
            }
            Some(end) => {
                if end.reason.is_some() {
                    code = FAILED;
                }
                writeln!(io::stdout(), "{pod}: {}", end.reason.as_deref().unwrap_or("stopped"))?;
            }
        }
    }
    Ok(code)
}

/// Prints one line per event until the machine ends.
fn events(runtime: &Runtime, args: &ShowPod) -> Result<u8, Failure> {
    let mut events = runtime.events(&args.pod)?;
    loop {
        let Some(event) = events.next(EVENT_SLICE)? else { continue };
        let now = hutch_runtime::Timestamp::now();
        match args.format {
            Format::Json => writeln!(io::stdout(), "{}", json!({ "time": now, "pod": args.pod, "event": event }))?,
            Format::Table => writeln!(io::stdout(), "{now} {}", event_text(&event))?,
        }
        if event == PodEvent::MachineEnded {
            return Ok(0);
        }
    }
}

fn event_text(event: &PodEvent) -> String {
    match event {
        PodEvent::Exited { token, container, status } => {
            let name = container.as_ref().map_or(format!("process {token}"), |id| format!("container {id}"));
            format!("{name} exited: {status:?}")
        }
        PodEvent::OutOfMemory { container } => format!("container {container} ran out of memory"),
        PodEvent::MachineEnded => "machine ended".to_owned(),
    }
}
