//! CreateContainer (§7.1).

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
    /// # use hutch_runtime_fakes::World;
    /// # let world = World::new();
    /// # let runtime = world.runtime();
    /// runtime.run_pod(world.pod("web", &[]))?;
    /// let (_, container) = runtime.create_container("web", world.container("side"))?;
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
        let result = pod.add_container(config).and_then(|index| pod.commit_container(index));
        match result {
            Ok(index) => Ok((PodHandle::new(self, &pod), ContainerHandle::new(self, &pod, index))),
            Err(error) => {
                pod.roll_back_creation(&id);
                Err(error)
            }
        }
    }
}

impl OpenPod<'_> {
    /// Writes the container's config, then the pod's, which makes the container part of it.
    fn commit_container(&mut self, index: usize) -> Result<usize> {
        let container = &self.containers[index];
        self.store().put(&container.dirs.config_record(), &container.config)?;
        self.put_config()?;
        Ok(index)
    }

    /// Takes a failed creation back. What fails here is logged, and tried again by the next call on the pod.
    fn roll_back_creation(&mut self, id: &ContainerId) {
        let result = (|| {
            let Ok(index) = self.find(id) else { return Ok(()) };
            let taken = self.roll_back_container(index);
            let last = self.containers.remove(index);
            taken?;
            // The list may have been written before the failure.
            self.put_config()?;
            self.remove_container_dirs(&last.id)?;
            self.sync_size()
        })();
        if let Err(error) = result {
            logger::warn!("pod {}: taking back the creation of container {id}: {}", self.id, Error::chain(&error));
        }
    }
}
