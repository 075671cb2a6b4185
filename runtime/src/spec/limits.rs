//! Size of the machine from the limits of its containers (P-183, P-184).

use super::Resources;
use crate::error::{Error, Result};

const MIB: i64 = 1 << 20;

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

/// vCPUs one container asks for: its share, rounded up.
pub fn vcpus_for(resources: &Resources) -> u32 {
    vcpus_for_all(std::iter::once(resources))
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
