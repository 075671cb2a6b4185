//! Limits of containers, and the size of the machine that follows from them (P-183, P-184).

use hutch_agent_proto::ResourceLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const MIB: i64 = 1 << 20;

/// Limits of a container; an absent one means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Microseconds of CPU time per period; negative means unlimited (P-183).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    /// Length of the CPU period in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// CPU weight, 2 to 262144.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Memory in bytes; -1 means unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Memory and swap together in bytes; -1 means unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Bytes of memory that the guest's kernel tries not to reclaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<i64>,
    /// vCPUs that it may use, as a list: `0-2,4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Number of processes; -1 means unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
}

impl Resources {
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(bytes) = self.memory {
            memory_mib(bytes)?;
        }
        if self.cpu_shares.is_some_and(|shares| shares != 0 && !(2..=262_144).contains(&shares)) {
            return Err(Error::invalid("resources.cpu_shares", "must be 2 to 262144"));
        }
        if self.cpu_quota.is_some_and(|quota| quota == 0) {
            return Err(Error::invalid("resources.cpu_quota", "is 0; leave it out or give -1 for unlimited"));
        }
        Ok(())
    }

    /// Changes the limits that are set in `limits`. A new memory limit leaves the swap that is allowed beside it as it is,
    /// as in the guest.
    pub fn merge(&mut self, limits: &ResourceLimits) {
        let swap = match (limits.memory, self.memory, self.memory_swap) {
            (Some(_), _, Some(-1)) | (Some(-1), _, Some(_)) => Some(-1),
            (Some(new), Some(old), Some(total)) => Some(new.saturating_add(total.saturating_sub(old).max(0))),
            (Some(new), None, Some(total)) => Some(total.max(new)),
            (_, _, swap) => swap,
        };
        let Self { cpu_quota, cpu_period, cpu_shares, memory, memory_swap, memory_reservation, cpuset_cpus, pids } =
            self;
        *cpu_quota = limits.cpu_quota.or(*cpu_quota);
        *cpu_period = limits.cpu_period.or(*cpu_period);
        *cpu_shares = limits.cpu_shares.or(*cpu_shares);
        *memory = limits.memory.or(*memory);
        *memory_swap = limits.memory_swap.or(swap);
        *memory_reservation = limits.memory_reservation.or(*memory_reservation);
        *cpuset_cpus = limits.cpuset_cpus.clone().or(cpuset_cpus.take());
        *pids = limits.pids.or(*pids);
    }
}

/// Thousandths of a CPU that the limits allow; 0 means unlimited, as does a negative quota or a period of zero.
fn milli_cpus(resources: &Resources) -> u64 {
    let quota = resources.cpu_quota.unwrap_or(-1);
    let period = resources.cpu_period.unwrap_or(100_000);
    match (u64::try_from(quota), period) {
        (Err(_) | Ok(0), _) | (_, 0) => 0,
        (Ok(quota), period) => {
            let milli = u128::from(quota) * 1000 / u128::from(period);
            u64::try_from(milli).unwrap_or(u64::MAX)
        }
    }
}

/// vCPUs that the containers need on top of the machine's default: the sum of their shares, rounded up once (P-183).
pub fn vcpus_for_all<'a>(containers: impl IntoIterator<Item = &'a Resources>) -> u32 {
    let milli = containers.into_iter().map(milli_cpus).fold(0, u64::saturating_add);
    u32::try_from(milli.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// Memory in MiB that the containers may use together; a container without a limit adds none.
pub fn memory_mib_for_all<'a>(containers: impl IntoIterator<Item = &'a Resources>) -> u64 {
    let limit = |resources: &Resources| resources.memory.and_then(|bytes| memory_mib(bytes).ok().flatten());
    containers.into_iter().filter_map(limit).fold(0, u64::saturating_add)
}

/// A memory limit in MiB, rounded up; `None` for -1, which means unlimited (P-184).
///
/// # Errors
/// [`Error::InvalidConfig`] for zero and for other negative values.
pub fn memory_mib(bytes: i64) -> Result<Option<u64>> {
    match bytes {
        -1 => Ok(None),
        1.. => Ok(Some(u64::try_from((bytes - 1) / MIB + 1).unwrap_or(u64::MAX))),
        _ => Err(Error::invalid(format!("memory limit {bytes}"), "must be positive, or -1 for unlimited")),
    }
}
