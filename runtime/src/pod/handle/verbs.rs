//! The verbs of pods on a handle. Each is the call of [`Runtime`](crate::Runtime) with the handle's id.

use std::time::Duration;

use super::PodHandle;
use crate::container::ContainerHandle;
use crate::error::Result;
use crate::pod::{DeleteOptions, PodEnd, PodEvents, PodStats, StopOptions};
use crate::spec::{ContainerConfig, PodStatus};

impl PodHandle {
    /// [`Runtime::start_pod`](crate::Runtime::start_pod). Stopped containers get the streams again that this handle
    /// knows; for pipes, `take_pipes` of their handles returns the new ones.
    pub fn start(&self) -> Result<PodHandle> {
        Ok(self.runtime.start_pod_with(&self.id, &self.stdio)?.with_stdio_of(self))
    }

    /// [`Runtime::stop_pod`](crate::Runtime::stop_pod) with SIGTERM first, then SIGKILL.
    pub fn stop(&self) -> Result<PodHandle> {
        self.stop_with(StopOptions::default())
    }

    /// [`Runtime::stop_pod`](crate::Runtime::stop_pod).
    pub fn stop_with(&self, options: StopOptions) -> Result<PodHandle> {
        Ok(self.runtime.stop_pod(&self.id, options)?.with_stdio_of(self))
    }

    /// [`Runtime::delete_pod`](crate::Runtime::delete_pod) without force.
    pub fn delete(&self) -> Result<()> {
        self.delete_with(DeleteOptions::default())
    }

    /// [`Runtime::delete_pod`](crate::Runtime::delete_pod).
    pub fn delete_with(&self, options: DeleteOptions) -> Result<()> {
        self.runtime.delete_pod(&self.id, options).map(drop)
    }

    /// [`Runtime::pause_pod`](crate::Runtime::pause_pod).
    pub fn pause(&self) -> Result<PodHandle> {
        Ok(self.runtime.pause_pod(&self.id)?.with_stdio_of(self))
    }

    /// [`Runtime::resume_pod`](crate::Runtime::resume_pod).
    pub fn resume(&self) -> Result<PodHandle> {
        Ok(self.runtime.resume_pod(&self.id)?.with_stdio_of(self))
    }

    /// [`Runtime::status_pod`](crate::Runtime::status_pod).
    pub fn status(&self) -> Result<PodStatus> {
        self.runtime.status_pod(&self.id)
    }

    /// [`Runtime::stats_pod`](crate::Runtime::stats_pod).
    pub fn stats(&self) -> Result<PodStats> {
        self.runtime.stats_pod(&self.id)
    }

    /// [`Runtime::wait_pod`](crate::Runtime::wait_pod).
    pub fn wait(&self, timeout: Duration) -> Result<Option<PodEnd>> {
        self.runtime.wait_pod(&self.id, timeout)
    }

    /// [`Runtime::events`](crate::Runtime::events).
    pub fn events(&self) -> Result<PodEvents> {
        self.runtime.events(&self.id)
    }

    /// [`Runtime::create_container`](crate::Runtime::create_container).
    pub fn create_container(&self, config: ContainerConfig) -> Result<ContainerHandle> {
        self.runtime.create_container(&self.id, config).map(|(_, container)| container)
    }

    /// Handles of the containers that the pod has now, in creation order. [`PodHandle::containers`] has the ids as of
    /// the call that returned this handle.
    pub fn container_handles(&self) -> Result<Vec<ContainerHandle>> {
        let now = self.runtime.get_pod(&self.id)?.with_stdio_of(self);
        let found = now.containers.iter().map(|id| now.container(id).transpose());
        // One that is deleted meanwhile is left out.
        found.flatten().collect()
    }
}
