//! Pods that survived a restart of the host: their configuration is there, their runtime directory is not (P-049).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

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
            None => self.lock_creating(id, &dirs, Instant::now() + timeout, timeout)?,
        };
        if self.exists(&dirs)? && self.is_blank(&dirs)? {
            self.refresh_after_reboot(&dirs)?;
        }
        Ok(lock)
    }

    /// Whether the runtime directory of a pod does not exist, or holds nothing but what a call that was killed while it
    /// [refreshed](Self::lock_existing) the pod may have left: the lock, and state records of containers. With anything
    /// else in it the pod's state record was lost, which is an error (P-043).
    pub(crate) fn is_blank(&self, dirs: &PodDirs) -> Result<bool> {
        let fail = |e| Error::Store { path: dirs.run_dir().to_owned(), source: StoreCause::Read(e) };
        let only = |dir: &Path, wanted: &str| -> io::Result<bool> {
            for entry in std::fs::read_dir(dir)? {
                let name = entry?.file_name();
                // Names of unfinished writes, and no others, hold a blank.
                if name != wanted && !name.to_string_lossy().contains(' ') {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let blank = || -> io::Result<bool> {
            for entry in std::fs::read_dir(dirs.run_dir())? {
                let entry = entry?;
                let name = entry.file_name();
                let harmless = match entry.file_type()?.is_dir() {
                    true => only(&entry.path(), "state.json")? && name != "shared",
                    false => name == "lock" || name.to_string_lossy().contains(' '),
                };
                if !harmless {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match blank() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map_err(fail),
        }
    }

    /// The pod's own record comes last: until then the pod is still one whose host was restarted.
    fn refresh_after_reboot(&self, dirs: &PodDirs) -> Result<()> {
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
        self.put(&dirs.state_record(), &PodState::restarted())
    }
}
