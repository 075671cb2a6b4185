//! Shows containers: lists, status, resource usage.

use std::io::{self, Write};

use hutch_agent_proto::ContainerStats;
use hutch_runtime::spec::ContainerStatus;
use hutch_runtime::Runtime;
use serde_json::json;

use crate::args::container::{ListContainers, ShowContainer};
use crate::args::format::Format;
use crate::commands::records::state_text;
use crate::failure::Failure;
use crate::output::{mib, print_json, print_table};

/// Header of lists of containers.
pub fn container_header() -> [&'static str; 6] {
    ["POD", "CONTAINER", "STATE", "PID", "EXIT", "ROOTFS"]
}

/// The row of a container in such a list.
pub fn container_row(pod: &str, container: &ContainerStatus) -> Vec<String> {
    let pid = if container.pid > 0 { container.pid.to_string() } else { "-".to_owned() };
    vec![
        pod.to_owned(),
        container.id.clone(),
        state_text(container.state),
        pid,
        exit_text(container).unwrap_or_else(|| "-".to_owned()),
        container.rootfs.display().to_string(),
    ]
}

fn exit_text(container: &ContainerStatus) -> Option<String> {
    let exit = container.exit.as_ref()?;
    let text = match (exit.code, exit.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => exit.reason.clone().unwrap_or_else(|| "unknown".to_owned()),
    };
    Some(if container.oom_killed { format!("{text}, out of memory") } else { text })
}

/// Lists the containers of one pod or of all.
pub fn list(runtime: &Runtime, args: &ListContainers) -> Result<u8, Failure> {
    let pods = match &args.pod {
        Some(pod) => vec![runtime.status_pod(pod)?],
        None => runtime.list_pods()?,
    };
    let all = pods.iter().flat_map(|pod| pod.containers.iter().map(|container| (pod.id.as_str(), container)));
    match args.format {
        Format::Json => {
            let all: Vec<_> = all.map(|(pod, container)| json!({ "pod": pod, "container": container })).collect();
            print_json(&all)?;
        }
        Format::Table => print_table(&container_header(), all.map(|(pod, container)| container_row(pod, container)))?,
    }
    Ok(0)
}

/// Shows the status of a container.
pub fn status(runtime: &Runtime, args: &ShowContainer) -> Result<u8, Failure> {
    let status = runtime.status_container(&args.pod, &args.container)?;
    if args.format == Format::Json {
        print_json(&status)?;
        return Ok(0);
    }
    let mut out = io::stdout().lock();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<10}{value}");
    line("container", status.id.clone())?;
    line("state", state_text(status.state))?;
    line("pid", status.pid.to_string())?;
    if let Some(at) = status.started_at {
        line("created", at.to_string())?;
    }
    if let (Some(text), Some(exit)) = (exit_text(&status), &status.exit) {
        line("exit", format!("{text} at {}", exit.at))?;
    }
    line("rootfs", status.rootfs.display().to_string())?;
    for (key, value) in &status.annotations {
        line("note", format!("{key}={value}"))?;
    }
    Ok(0)
}

/// Shows the resource usage of a container.
pub fn stats(runtime: &Runtime, args: &ShowContainer) -> Result<u8, Failure> {
    let stats = runtime.stats_container(&args.pod, &args.container)?;
    match args.format {
        Format::Json => print_json(&stats)?,
        Format::Table => print_table(&stats_header(), [stats_row(&args.container, &stats)])?,
    }
    Ok(0)
}

/// Header of tables of resource usage.
pub fn stats_header() -> [&'static str; 9] {
    ["CONTAINER", "CPU", "MEMORY", "PEAK", "LIMIT", "PIDS", "BLOCK IN/OUT", "NET IN/OUT", "OOM KILLS"]
}

/// The row of a container in such a table.
pub fn stats_row(id: &str, stats: &ContainerStats) -> Vec<String> {
    let limit = if stats.memory_limit_bytes == u64::MAX { "-".to_owned() } else { mib(stats.memory_limit_bytes) };
    let net = |bytes: fn(&hutch_agent_proto::InterfaceStats) -> u64| {
        stats.network.iter().map(bytes).fold(0, u64::saturating_add)
    };
    vec![
        id.to_owned(),
        format!("{:.2} s", stats.cpu_usage_us as f64 / 1e6),
        mib(stats.memory_bytes),
        mib(stats.memory_peak_bytes),
        limit,
        stats.pids.to_string(),
        format!("{} / {}", mib(stats.block_read_bytes), mib(stats.block_write_bytes)),
        format!("{} / {}", mib(net(|i| i.rx_bytes)), mib(net(|i| i.tx_bytes))),
        stats.oom_kills.to_string(),
    ]
}
