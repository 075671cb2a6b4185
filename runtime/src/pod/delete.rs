//! DeletePod (pod contract, §6.5).

use crate::container::OpenContainer;
use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, PodHandle, StopOptions};
use crate::runtime::Runtime;
use crate::state::State;
use crate::store::StoreCause;
use crate::verb::Verb;

/// How to delete a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Stop a running pod first, by force.
    pub force: bool,
}

impl Runtime {
    /// Deletes a pod that does not run: everything it has on the host, then its records. A ready or paused pod is
    /// stopped by force first (P-055, P-056). A pod whose records are damaged can be deleted too (P-018), and one whose
    /// host was restarted (P-049).
    ///
    /// # Errors
    /// [`Error::WrongState`] for a running pod (P-054), [`Error::NoSuchPod`] (P-059). A failure while ending what the
    /// pod has on the host leaves all records; a later one leaves what a repeated call can finish (P-058).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.create_pod(host.pod("web", &["server"]))?;
    /// runtime.delete_pod("web", Default::default())?;
    /// assert!(runtime.status_pod("web").unwrap_err().is_not_found());
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn delete_pod(&self, pod: &str, options: DeleteOptions) -> Result<PodHandle> {
        let id = PodId::new(pod)?;
        match OpenPod::exclusive(self, &id) {
            Ok(mut pod) => {
                if !options.force {
                    Verb::DeletePod.check_pod(pod.id.as_str(), pod.state.state)?;
                }
                self.store().check_removable(&pod.dirs)?;
                pod.stop(StopOptions::forced())?;
                let handle = PodHandle::new(&pod);
                pod.remove_containers();
                pod.remove_records()?;
                Ok(handle)
            }
            Err(Error::Store { source: source @ StoreCause::Newer { .. }, path }) => Err(Error::Store { path, source }),
            Err(error @ Error::Store { .. }) => self.delete_damaged(&id, options, error),
            Err(error) => Err(error),
        }
    }

    /// Damaged records do not say whether the pod runs, so a living machine decides.
    fn delete_damaged(&self, id: &PodId, options: DeleteOptions, error: Error) -> Result<PodHandle> {
        let _lock = OpenPod::lock_exclusive(self, id)?;
        let mut pod = OpenPod::of_leftovers(self, id);
        pod.refuse_newer()?;
        if (pod.sandbox.vm_alive() || self.store().is_lost(&pod.dirs)?) && !options.force {
            return Err(error);
        }
        self.store().check_removable(&pod.dirs)?;
        let handle = PodHandle::new(&pod);
        pod.discard()?;
        Ok(handle)
    }
}

impl OpenPod<'_> {
    /// Removes the directories of all containers; a failure is logged, and deletion continues (P-057, P-058).
    fn remove_containers(&self) {
        for container in self.containers() {
            if let Err(error) = self.remove_container_dirs(&container.id) {
                logger::warn!("pod {}: container {}: {}", self.id, container.id, error.chain());
            }
        }
    }

    /// Records of a newer program are left to that program (P-051).
    pub(crate) fn refuse_newer(&self) -> Result<()> {
        let store = self.store();
        let results = [
            store.get(&self.dirs.config_record()).map(drop),
            store.get(&self.dirs.state_record()).map(drop),
            store.get(&self.dirs.vm_record()).map(drop),
            store.get(&self.dirs.network_record()).map(drop),
        ];
        for result in results {
            if let Err(error @ Error::Store { source: StoreCause::Newer { .. }, .. }) = result {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends what a container has on the host, as far as its records can be read, and records that it is stopped.
    pub(crate) fn teardown_damaged(&mut self, id: &ContainerId) -> Result<()> {
        let mut leftover = OpenContainer::load_leftover(self.store(), id.clone(), self.dirs.container(id));
        leftover.state.state = Some(State::Stopped);
        let mut container = self.push_container(leftover);
        container.roll_back()?;
        let state = container.state.clone();
        container.put_state(state)
    }
}
