//! Shows pods: lists, status, resource usage.

use std::io::{self, Write};

use hutch_runtime::spec::PodStatus;
use hutch_runtime::Runtime;

use crate::args::format::Format;
use crate::args::pod::{ListPods, ShowPod};
use crate::commands::container::show::{container_header, container_row, stats_header, stats_row};
use crate::commands::records::state_text;
use crate::failure::Failure;
use crate::output::{mib, print_json, print_table};

/// Lists all pods.
pub fn list(runtime: &Runtime, args: &ListPods) -> Result<u8, Failure> {
    let pods = runtime.list_pods()?;
    if args.quiet {
        for pod in &pods {
            writeln!(io::stdout(), "{}", pod.id)?;
        }
        return Ok(0);
    }
    match args.format {
        Format::Json => print_json(&pods)?,
        Format::Table => print_table(&["POD", "STATE", "CONTAINERS", "PID", "NOTE"], pods.iter().map(row))?,
    }
    Ok(0)
}

fn row(pod: &PodStatus) -> Vec<String> {
    let pid = if pod.vmm_pid > 0 { pod.vmm_pid.to_string() } else { "-".to_owned() };
    vec![pod.id.clone(), state_text(pod.state), pod.containers.len().to_string(), pid, note(pod)]
}

/// Anything unusual about a pod.
fn note(pod: &PodStatus) -> String {
    let busy = pod.busy.then(|| "busy".to_owned());
    let parts = [busy, pod.error.clone(), pod.reason.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Shows the status of a pod.
pub fn status(runtime: &Runtime, args: &ShowPod) -> Result<u8, Failure> {
    let pod = runtime.status_pod(&args.pod)?;
    if args.format == Format::Json {
        print_json(&pod)?;
        return Ok(0);
    }
    let machine = &pod.hypervisor;
    let mut out = io::stdout().lock();
    writeln!(out, "pod      {}", pod.id)?;
    writeln!(out, "state    {}", state_text(pod.state))?;
    if !note(&pod).is_empty() {
        writeln!(out, "note     {}", note(&pod))?;
    }
    writeln!(out, "machine  {} vCPUs, {} MiB, process {}", machine.vcpus, machine.memory_mib, pod.vmm_pid)?;
    match (pod.memory_limited_mib, &pod.memory_unlimited) {
        (Some(mib), _) => writeln!(out, "limit    host memory for a machine of {mib} MiB and its processes")?,
        (None, Some(reason)) => writeln!(out, "limit    none on host memory: {reason}")?,
        (None, None) => {}
    }
    writeln!(out, "kernel   {}", machine.kernel.display())?;
    for (key, value) in &pod.annotations {
        writeln!(out, "note     {key}={value}")?;
    }
    drop(out);
    if !pod.containers.is_empty() {
        print_table(&container_header(), pod.containers.iter().map(|c| container_row(&pod.id, c)))?;
    }
    Ok(0)
}

/// Shows the resource usage of a pod: of its VMM process, then of its containers in the guest.
pub fn stats(runtime: &Runtime, args: &ShowPod) -> Result<u8, Failure> {
    let stats = runtime.stats_pod(&args.pod)?;
    if args.format == Format::Json {
        print_json(&stats)?;
        return Ok(0);
    }
    let machine = &stats.machine;
    writeln!(
        io::stdout(),
        "machine: {:.2} s of CPU time, {} resident, {} threads, {} descriptors",
        machine.cpu_us as f64 / 1e6,
        mib(machine.resident_bytes),
        machine.threads,
        machine.descriptors
    )?;
    print_table(&stats_header(), stats.containers.iter().map(|(id, stats)| stats_row(id, stats)))?;
    Ok(0)
}
