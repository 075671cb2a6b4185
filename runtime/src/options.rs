//! Bounds and policies of a runtime.

use std::time::Duration;

use crate::pod::{KILL_TIMEOUT, POWER_OFF_TIMEOUT, STOP_TIMEOUT};
use crate::spec::AssetPolicy;

/// Bounds and policies. The defaults are those of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// For a pod's lock (P-028).
    pub lock_timeout: Duration,
    /// For the lock of each pod that a list shows; a pod busy for longer is shown as such (P-029).
    pub list_lock_timeout: Duration,
    /// For a new machine to answer (P-069).
    pub boot_timeout: Duration,
    /// For a shim to end by itself before its guest process is killed (pod contract, §7.4).
    pub stop_timeout: Duration,
    /// For each request to the guest agent (P-205).
    pub agent_timeout: Duration,
    /// For the guest to write cached data out and unmount a disk, when its container stops. Long: a stop that does
    /// not wait loses what was not yet written.
    pub sync_timeout: Duration,
    /// For all that a status or a list asks guests, so that it is quick whatever they do. The next call
    /// does the rest.
    pub reconcile_timeout: Duration,
    /// For a machine to end after the guest was asked to power off, before it is killed.
    pub power_off_timeout: Duration,
    /// For a killed process to be gone, on the host or in the guest (pod contract, §7.4: the second wait of a stop).
    pub kill_timeout: Duration,
    /// Settings that annotations may override (P-191).
    pub assets: AssetPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_secs(60),
            list_lock_timeout: Duration::from_millis(250),
            boot_timeout: Duration::from_secs(10),
            stop_timeout: STOP_TIMEOUT,
            agent_timeout: Duration::from_secs(10),
            sync_timeout: Duration::from_secs(120),
            reconcile_timeout: Duration::from_secs(1),
            power_off_timeout: POWER_OFF_TIMEOUT,
            kill_timeout: KILL_TIMEOUT,
            assets: AssetPolicy::default(),
        }
    }
}
