//! Changes a container's limits while it lives: from the host's numbers to the files of its group.
//!
//! libcontainer brings libcgroups, which this does not use (0.7). It applies limits one by one and reports a bad value
//! only after it has applied others, refuses swap without a memory limit in the same request instead of reading the
//! group's, ignores a memory limit of 0, and fails on a kernel without `memory.swap.max`.

use hutch_agent::failure::{invalid, io, Outcome};
use hutch_agent_proto::ResourceLimits;

use crate::cgroup::Cgroup;

/// Files of the group, and the text for each.
type Writes = Vec<(&'static str, String)>;

/// Shortest and longest period of the processor quota that the kernel accepts, in microseconds.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// Smallest quota that the kernel accepts, in microseconds.
const MIN_QUOTA: i64 = 1_000;
/// The default period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Changes the limits that are set in `limits`.
///
/// # Errors
/// `Invalid` for values out of range, before any limit is changed.
pub fn update(group: &Cgroup, limits: &ResourceLimits) -> Outcome<()> {
    let current = Current {
        memory: group.number("memory.max").and_then(|bytes| i64::try_from(bytes).ok()),
        cpu_max: group.read("cpu.max"),
    };
    for (file, text) in plan(limits, &current)? {
        // A kernel without swap has no such file, and no swap to limit.
        if file == "memory.swap.max" && !group.file(file).exists() {
            continue;
        }
        group.write(file, &text).map_err(|error| io(format_args!("setting {file} to {text}"), &error))?;
    }
    Ok(())
}

/// Present limits of the group.
struct Current {
    memory: Option<i64>,
    cpu_max: String,
}

fn plan(limits: &ResourceLimits, current: &Current) -> Outcome<Writes> {
    let mut writes = Writes::new();
    let memory = match limits.memory {
        None => current.memory,
        Some(bytes) => {
            writes.push(("memory.max", amount("memory", bytes)?));
            (bytes >= 0).then_some(bytes)
        }
    };
    if let Some(total) = limits.memory_swap {
        let swap = match memory {
            _ if total == -1 => -1,
            // Version 2 counts swap on its own.
            Some(memory) if total >= memory => total - memory,
            Some(memory) => return Err(invalid(format!("memory_swap {total} is less than memory, {memory}"))),
            None => return Err(invalid("memory_swap without a memory limit")),
        };
        writes.push(("memory.swap.max", amount("memory_swap", swap)?));
    }
    if let Some(bytes) = limits.memory_reservation {
        writes.push(("memory.low", amount("memory_reservation", bytes)?));
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        writes.push(("cpu.max", cpu_max(limits.cpu_quota, limits.cpu_period, &current.cpu_max)?));
    }
    if let Some(shares) = limits.cpu_shares {
        writes.push(("cpu.weight", weight(shares)?.to_string()));
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        if !cpus.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-')) {
            return Err(invalid(format!("cpuset_cpus {cpus:?} is not a list of processors")));
        }
        writes.push(("cpuset.cpus", cpus.clone()));
    }
    if let Some(pids) = limits.pids {
        writes.push(("pids.max", amount("pids", pids)?));
    }
    Ok(writes)
}

fn amount(what: &str, value: i64) -> Outcome<String> {
    match value {
        -1 => Ok("max".into()),
        0.. => Ok(value.to_string()),
        _ => Err(invalid(format!("{what} {value}: only -1 is below zero"))),
    }
}

fn cpu_max(quota: Option<i64>, period: Option<u64>, current: &str) -> Outcome<String> {
    let mut words = current.split_whitespace();
    let (old_quota, old_period) = (words.next().unwrap_or("max"), words.next().and_then(|word| word.parse().ok()));
    let period = period.filter(|period| *period != 0).or(old_period).unwrap_or(DEFAULT_PERIOD);
    if !PERIODS.contains(&period) {
        return Err(invalid(format!("cpu_period {period} is not between {} and {}", PERIODS.start(), PERIODS.end())));
    }
    Ok(match quota {
        None => format!("{old_quota} {period}"),
        Some(quota) if quota <= 0 => format!("max {period}"),
        Some(quota) if quota < MIN_QUOTA => return Err(invalid(format!("cpu_quota {quota} is below {MIN_QUOTA}"))),
        Some(quota) => format!("{quota} {period}"),
    })
}

/// Converts shares (2 to 262144) to a weight (1 to 10000), so that the defaults, 1024 and 100, meet. libcontainer uses the
/// same curve when it creates a container: the common logarithm of the weight is a quadratic function of the binary
/// logarithm of the shares, as in runc and crun.
fn weight(shares: u64) -> Outcome<u64> {
    match shares {
        2 => Ok(1),
        3..=262_144 => {
            let log = (shares as f64).log2();
            let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64;
            Ok(weight.clamp(1, 10_000))
        }
        _ => Err(invalid(format!("cpu_shares {shares} is not between 2 and 262144"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(limits: ResourceLimits) -> Outcome<Writes> {
        plan(&limits, &Current { memory: Some(1000), cpu_max: "max 100000".into() })
    }

    #[test]
    fn each_limit_has_its_file() {
        let limits = ResourceLimits {
            memory: Some(4096),
            memory_swap: Some(6000),
            memory_reservation: Some(100),
            cpu_quota: Some(50_000),
            cpu_period: None,
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1,3".into()),
            pids: Some(-1),
        };
        let expected = [
            ("memory.max", "4096"),
            ("memory.swap.max", "1904"),
            ("memory.low", "100"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "100"),
            ("cpuset.cpus", "0-1,3"),
            ("pids.max", "max"),
        ];
        assert_eq!(planned(limits).unwrap(), expected.map(|(file, text)| (file, text.to_string())));
        assert!(planned(ResourceLimits::default()).unwrap().is_empty());
    }

    #[test]
    fn limits_that_are_not_set_stay() {
        let period = ResourceLimits { cpu_period: Some(20_000), ..Default::default() };
        assert_eq!(planned(period).unwrap(), [("cpu.max", "max 20000".to_string())]);
        let swap = ResourceLimits { memory_swap: Some(1500), ..Default::default() };
        assert_eq!(planned(swap).unwrap(), [("memory.swap.max", "500".to_string())]);
        let none = ResourceLimits { cpu_quota: Some(-1), memory: Some(-1), ..Default::default() };
        let expected = [("memory.max", "max".to_string()), ("cpu.max", "max 100000".to_string())];
        assert_eq!(planned(none).unwrap(), expected);
    }

    #[test]
    fn values_out_of_range_are_invalid() {
        for limits in [
            ResourceLimits { memory: Some(-2), ..Default::default() },
            ResourceLimits { memory_swap: Some(10), ..Default::default() },
            ResourceLimits { memory: Some(-1), memory_swap: Some(10), ..Default::default() },
            ResourceLimits { cpu_quota: Some(1), ..Default::default() },
            ResourceLimits { cpu_period: Some(1), ..Default::default() },
            ResourceLimits { cpu_shares: Some(1), ..Default::default() },
            ResourceLimits { cpuset_cpus: Some("0\n1".into()), ..Default::default() },
            ResourceLimits { pids: Some(-5), ..Default::default() },
        ] {
            assert!(planned(limits.clone()).is_err(), "{limits:?}");
        }
    }
}
