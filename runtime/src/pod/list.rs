//! ListPod (pod contract, §6.6).

use std::path::PathBuf;
use std::time::Instant;

use hutch_agent_proto::Deadline;

use crate::error::{Error, Result};
use crate::id::PodId;
use crate::logger;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::spec::{AgentKind, HypervisorConfig, HypervisorKind, PodStatus};

impl Runtime {
    /// Status of all pods, sorted by id. No pods, and no config root, is an empty list (P-017). Holds one pod's lock at
    /// a time (P-023).
    ///
    /// A pod that another call holds for longer than a short bound is shown from its last complete records, marked
    /// busy (P-029). One whose records are damaged is shown with an error marker, so that it can be found and deleted;
    /// one that vanishes meanwhile is left out (P-018).
    ///
    /// # Errors
    /// [`Error::Store`] if the config root cannot be read.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.create_pod(host.pod("a", &[]))?;
    /// runtime.create_pod(host.pod("b", &[]))?;
    /// assert_eq!(runtime.list_pods()?.len(), 2);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn list_pods(&self) -> Result<Vec<PodStatus>> {
        let mut list = Vec::new();
        // For all pods together.
        let until = Deadline::after(self.options().reconcile_timeout);
        for id in self.store().pods()? {
            match self.list_one(&id, until) {
                Ok(status) => list.push(status),
                Err(error @ Error::Store { .. }) => list.push(damaged(&id, &error)),
                Err(error) if error.is_not_found() => {}
                Err(error) => logger::warn!("pod {id} is left out of the list: {}", error.chain()),
            }
        }
        Ok(list)
    }

    /// Kernels, images and initrds that the recorded pods boot from.
    ///
    /// # Errors
    /// [`Error::Store`] if one of the configurations cannot be read.
    pub fn boot_files(&self) -> Result<Vec<PathBuf>> {
        let store = self.store();
        let mut files = Vec::new();
        for id in store.pods()? {
            // It may have been deleted meanwhile.
            let Some(config) = store.get(&store.pod(&id).config_record())? else { continue };
            let machine = config.hypervisor;
            files.extend([Some(machine.kernel), machine.image, machine.initrd].into_iter().flatten());
        }
        Ok(files)
    }

    fn list_one(&self, id: &PodId, until: Instant) -> Result<PodStatus> {
        match self.present_status(id, self.options().list_lock_timeout, until) {
            Err(Error::Timeout { .. }) => Ok(PodStatus { busy: true, ..OpenPod::load(self, id)?.status() }),
            other => other,
        }
    }
}

/// The status of a pod whose records cannot be read.
fn damaged(id: &PodId, error: &Error) -> PodStatus {
    PodStatus {
        id: id.to_string(),
        state: None,
        hypervisor_type: HypervisorKind::default(),
        hypervisor: HypervisorConfig::default(),
        agent_type: AgentKind::default(),
        annotations: Default::default(),
        containers: Vec::new(),
        vmm_pid: 0,
        memory_limited_mib: None,
        memory_unlimited: None,
        jail: None,
        reason: None,
        busy: false,
        error: Some(error.chain()),
    }
}
