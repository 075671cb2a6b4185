//! CreateContainer (pod contract, §7.1).

use crate::container::ContainerHandle;
use crate::error::{Error, Object, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::{OpenPod, PodHandle};
use crate::runtime::Runtime;
use crate::spec::ContainerConfig;
use crate::verb::Verb;

impl Runtime {
    /// Creates a container in a ready or running pod, without starting it (P-090, P-091).
    ///
    /// # Errors
    /// [`Error::WrongState`] in a paused or stopped pod (P-033), [`Error::AlreadyExists`] (P-095),
    /// [`Error::InvalidConfig`]. Any failure rolls back exactly what this call did (P-096).
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &[]))?;
    /// let (_, container) = runtime.create_container("web", host.container("side"))?;
    /// assert!(container.pid() > 0);
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn create_container(&self, pod: &str, mut config: ContainerConfig) -> Result<(PodHandle, ContainerHandle)> {
        let pod = PodId::new(pod)?;
        let id = ContainerId::new(&config.id)?;
        config.validate()?;
        config.load_files()?;
        config.command.stdio = config.command.stdio.renewed();
        let mut pod = OpenPod::exclusive(self, &pod)?;
        Verb::CreateContainer.check_pod(pod.id.as_str(), pod.state.state)?;
        if pod.find(&id).is_ok() {
            return Err(Error::AlreadyExists(Object::Container(id.to_string())));
        }
        pod.check_devices(&config)?;
        let result = pod.add_container(config).and_then(|container| {
            // The container's config first: the pod's is what makes the container a part of it.
            container.put_config()?;
            container.pod.put_config()?;
            Ok((PodHandle::new(container.pod), container.handle()))
        });
        if result.is_err() {
            pod.roll_back_creation(&id);
        }
        result
    }
}

impl OpenPod<'_> {
    /// Rolls a failed creation back. A failure of that is logged; the next call on the pod tries again.
    fn roll_back_creation(&mut self, id: &ContainerId) {
        let result = (|| {
            let Ok(mut container) = self.container(id) else { return Ok(()) };
            let rolled_back = container.roll_back();
            container.remove();
            rolled_back?;
            // The list may have been written before the failure.
            self.put_config()?;
            self.remove_container_dirs(id)?;
            self.sync_size()
        })();
        if let Err(error) = result {
            let error: Error = error;
            logger::warn!("pod {}: rolling back the creation of container {id}: {}", self.id, error.chain());
        }
    }
}
