//! From a container id to its pod (P-192).

use crate::error::{Error, Object, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::runtime::Runtime;
use crate::spec::oci::ROLE_KEY;
use crate::spec::ContainerConfig;

/// A container and its pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Id of the pod.
    pub pod: String,
    /// Configuration of the container.
    pub container: ContainerConfig,
}

impl Found {
    /// Whether the container stands for its whole pod (P-194).
    pub fn is_sandbox(&self) -> bool {
        match self.container.annotations.get(ROLE_KEY).map(String::as_str) {
            Some(role) => role != "container",
            // Not made from a bundle: the container that has its pod's name.
            None => self.container.id == self.pod,
        }
    }
}

impl Runtime {
    /// Searches all pods for a container (P-192).
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::Store`] if the roots cannot be read.
    pub fn find_container(&self, id: &str) -> Result<Found> {
        let id = ContainerId::new(id)?;
        let store = self.store();
        for pod in store.pods()? {
            // A configuration has the OCI documents of all containers: only one that may list this container is read. A
            // container has its directory before its pod lists it, and until the pod does not.
            if !store.pod(&pod).container(&id).config_dir().is_dir() {
                continue;
            }
            match store.get(&store.pod(&pod).config_record()) {
                Ok(Some(config)) => {
                    if let Some(container) = config.containers.into_iter().find(|c| c.id == id.as_str()) {
                        return Ok(Found { pod: pod.to_string(), container });
                    }
                }
                // Deleted meanwhile.
                Ok(None) => {}
                Err(error) => logger::warn!("pod {pod} is skipped in the search for a container: {}", error.chain()),
            }
        }
        Err(Error::NoSuchContainer { pod: "any".into(), container: id.to_string() })
    }

    /// Checks that no pod and no container of this host has the id (P-192).
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::Store`] if the roots cannot be read.
    pub fn check_unused(&self, id: &str) -> Result<()> {
        let pod = PodId::new(id)?;
        if self.store().exists(&self.store().pod(&pod))? {
            return Err(Error::AlreadyExists(Object::Pod(id.into())));
        }
        match self.find_container(id) {
            Ok(_) => Err(Error::AlreadyExists(Object::Container(id.into()))),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
