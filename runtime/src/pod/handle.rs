//! A pod as calls return it: its id and annotations, the way to its containers, and the verbs.

mod verbs;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::capture::StdioConfig;
use crate::container::ContainerHandle;
use crate::error::{Error, Object, Result};
use crate::id::ContainerId;
use crate::pod::OpenPod;
use crate::runtime::Runtime;
use crate::sync;

/// A pod as a call left it, with the verbs of pods as methods. Clones share the annotations.
///
/// A handle holds no lock and no process: dropping it changes nothing, and the pod may be gone by the time of the next
/// call, which says so.
///
/// # Examples
/// ```
/// # use hutch_runtime_fakes::FakeHost;
/// # use hutch_runtime::State;
/// # let host = FakeHost::new();
/// # let runtime = host.runtime();
/// let pod = runtime.run_pod(host.pod("web", &["server"]))?;
/// pod.pause()?;
/// assert_eq!(pod.status()?.state, Some(State::Paused));
/// pod.resume()?;
/// runtime.get_pod("web")?.stop()?.delete()?;
/// assert!(runtime.get_pod("web").unwrap_err().is_not_found());
/// # Ok::<(), hutch_runtime::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PodHandle {
    runtime: Runtime,
    id: String,
    containers: Vec<String>,
    annotations: Arc<RwLock<BTreeMap<String, String>>>,
    /// Of the containers that the call created, by id.
    stdio: Arc<BTreeMap<String, StdioConfig>>,
}

impl PodHandle {
    pub(crate) fn new(pod: &OpenPod<'_>) -> Self {
        Self {
            runtime: pod.rt.clone(),
            id: pod.id.to_string(),
            containers: pod.containers().iter().map(|container| container.id.to_string()).collect(),
            annotations: Arc::new(RwLock::new(pod.config.annotations.clone())),
            stdio: Arc::new(
                pod.containers().iter().map(|c| (c.id.to_string(), c.config.command.stdio.clone())).collect(),
            ),
        }
    }

    /// With the pipes of `earlier`, which an earlier call has returned.
    pub(crate) fn with_stdio_of(self, earlier: &PodHandle) -> Self {
        Self { stdio: Arc::clone(&earlier.stdio), ..self }
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
        let found = pod.find(&id).ok().map(|container| ContainerHandle::new(&pod, container));
        let stdio = self.stdio.get(id.as_str()).cloned().unwrap_or_default();
        Ok(found.map(|container| container.with_stdio(stdio)))
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
