//! Pods that survived a restart of the host: the marker of their configuration names an earlier boot (P-049).

use std::io;
use std::time::Duration;

use hutch_agent_proto::Deadline;

use super::names::POD_MARKER;
use super::owner::boot_id;
use super::{ContainerState, LockMode, PodDirs, PodLock, PodState, Store, StoreCause};
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::state::State;

/// Reason of a pod whose runtime directory did not survive.
pub(crate) const HOST_RESTARTED: &str = "the host was restarted";

impl PodState {
    /// State of a pod whose host was restarted.
    pub(crate) fn restarted() -> Self {
        PodState { reason: Some(HOST_RESTARTED.to_owned()), ..PodState::new(State::Stopped) }
    }
}

impl Store {
    /// Locks a pod exclusively. After a restart of the host, recreates the runtime directory with everything in state
    /// `stopped` (P-049). The id may have only leftovers, or nothing if the pod was deleted meanwhile.
    pub fn lock_existing(&self, id: &PodId, timeout: Duration) -> Result<PodLock> {
        let dirs = self.pod(id);
        let lock = match self.lock(id, LockMode::Exclusive, timeout)? {
            Some(lock) => lock,
            None => self.lock_creating(id, &dirs, Deadline::after(timeout), timeout)?,
        };
        if self.exists(&dirs)? && self.was_restarted(&dirs)? {
            self.refresh_after_reboot(id, &dirs)?;
        }
        Ok(lock)
    }

    /// Whether the host was restarted since the pod's runtime directory was made. Its records are not true any more
    /// then.
    pub(crate) fn was_restarted(&self, dirs: &PodDirs) -> Result<bool> {
        Ok(match self.boot_of(dirs)? {
            Some(boot) => boot != boot_id(),
            None => false,
        })
    }

    /// Whether the runtime directory of a pod is missing, or empty, although the host was not restarted.
    pub(crate) fn is_lost(&self, dirs: &PodDirs) -> Result<bool> {
        let fail = |e| Error::Store { path: dirs.run_dir().to_owned(), source: StoreCause::Read(e) };
        let entries = match std::fs::read_dir(dirs.run_dir()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(!self.was_restarted(dirs)?),
            Err(e) => return Err(fail(e)),
        };
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            if name != "lock" && name != POD_MARKER {
                return Ok(false);
            }
        }
        Ok(!self.was_restarted(dirs)?)
    }

    /// The marker with the present boot comes last: until then the pod is still one whose host was restarted.
    fn refresh_after_reboot(&self, id: &PodId, dirs: &PodDirs) -> Result<()> {
        self.empty_run_dir(dirs.run_dir())?;
        // The pod must stay deletable even if its configuration cannot be read.
        let config = self.get(&dirs.config_record()).unwrap_or_else(|e| {
            logger::warn!("{}; its containers are ignored", e.chain());
            None
        });
        let stopped = ContainerState { state: Some(State::Stopped), ..ContainerState::default() };
        for container in config.iter().flat_map(|config| &config.containers) {
            let Ok(id) = ContainerId::new(&container.id) else { continue };
            let container = dirs.container(&id);
            self.make_dir(container.run_dir())?;
            self.put(&container.state_record(), &stopped)?;
        }
        self.put(&dirs.state_record(), &PodState::restarted())?;
        self.mark_boot(id, dirs)
    }
}
