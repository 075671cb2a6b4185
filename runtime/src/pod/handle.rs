//! The handle that calls on pods return: the pod's id, annotations and containers.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::container::ContainerHandle;
use crate::error::{Error, Object, Result};
use crate::id::ContainerId;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::sync;

/// A pod as a call left it. Clones share the annotations.
#[derive(Debug, Clone)]
pub struct PodHandle {
    runtime: Runtime,
    id: String,
    containers: Vec<String>,
    annotations: Arc<RwLock<BTreeMap<String, String>>>,
}

impl PodHandle {
    pub(crate) fn new(pod: &OpenPod<'_>) -> Self {
        Self {
            runtime: pod.rt.clone(),
            id: pod.id.to_string(),
            containers: pod.containers().iter().map(|container| container.id.to_string()).collect(),
            annotations: Arc::new(RwLock::new(pod.config.annotations.clone())),
        }
    }

    /// The pod's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Ids of the containers, in creation order, as of the call that returned this.
    pub fn containers(&self) -> &[String] {
        &self.containers
    }

    /// A container of the pod; `None` if there is no such container.
    ///
    /// # Errors
    /// [`Error::NeedContainerId`], [`Error::NoSuchPod`], [`Error::Store`].
    pub fn container(&self, id: &str) -> Result<Option<ContainerHandle>> {
        let id = ContainerId::new(id)?;
        let pod = OpenPod::shared(&self.runtime, &crate::id::PodId::new(&self.id)?)?;
        Ok(pod.find(&id).ok().map(|container| ContainerHandle::new(&pod, container)))
    }

    /// One annotation.
    ///
    /// # Errors
    /// [`Error::NoSuchAnnotation`] if the key is absent.
    pub fn annotation(&self, key: &str) -> Result<String> {
        let annotations = sync::read(&self.annotations);
        annotations
            .get(key)
            .cloned()
            .ok_or_else(|| Error::NoSuchAnnotation { object: Object::Pod(self.id.clone()), key: key.to_owned() })
    }

    /// All annotations.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        sync::read(&self.annotations).clone()
    }

    /// Adds and replaces annotations, here and in the record, under the pod's exclusive lock (P-030).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an empty key, [`Error::NoSuchPod`], [`Error::Store`].
    pub fn merge_annotations(&self, added: &BTreeMap<String, String>) -> Result<()> {
        if added.keys().any(String::is_empty) {
            return Err(Error::invalid("annotation", "has an empty key"));
        }
        let mut pod = OpenPod::exclusive(&self.runtime, &crate::id::PodId::new(&self.id)?)?;
        // Lock order: the pod first.
        let mut annotations = sync::write(&self.annotations);
        pod.config.annotations.extend(added.clone());
        pod.put_config()?;
        annotations.clone_from(&pod.config.annotations);
        Ok(())
    }
}
