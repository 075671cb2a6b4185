//! A container as calls return it, with the verbs.

mod verbs;

use std::collections::BTreeMap;

use crate::capture::{StdioConfig, StdioPipes};
use crate::container::OpenContainer;
use crate::error::{Error, Object, Result};
use crate::pod::OpenPod;
use crate::process::ProcessIdentity;
use crate::runtime::Runtime;
use crate::store::ProcessRecord;

/// A container as a call left it, with the verbs of containers as methods. As with a [`PodHandle`](crate::PodHandle),
/// dropping it changes nothing.
///
/// # Examples
/// ```
/// # use hutch_runtime_fakes::FakeHost;
/// # use std::time::Duration;
/// # let host = FakeHost::new();
/// # let runtime = host.runtime();
/// let pod = runtime.run_pod(host.pod("web", &[]))?;
/// let side = pod.create_container(host.container("side"))?.start()?;
/// side.kill(15)?;
/// let exit = side.wait(Duration::from_secs(5))?.unwrap();
/// assert_eq!(exit.signal, Some(15));
/// side.delete()?;
/// # Ok::<(), hutch_runtime::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ContainerHandle {
    runtime: Runtime,
    pod: String,
    id: String,
    annotations: BTreeMap<String, String>,
    process: Option<ProcessRecord>,
    stdio: StdioConfig,
}

impl ContainerHandle {
    pub(crate) fn new(pod: &OpenPod<'_>, container: &OpenContainer) -> Self {
        Self {
            runtime: pod.rt.clone(),
            pod: pod.id.to_string(),
            id: container.id.to_string(),
            annotations: container.config.annotations.clone(),
            process: container.process.clone(),
            stdio: container.config.command.stdio.clone(),
        }
    }

    /// With the pipes of a handle that an earlier call has returned.
    pub(crate) fn with_stdio(self, stdio: StdioConfig) -> Self {
        Self { stdio, ..self }
    }

    /// Takes the caller's ends of the pipes that [`Command::stdio`](crate::spec::Command::stdio) has asked for. They come
    /// with the handle of the call that created the container or its pod, and from there, for each start; any other
    /// handle has none.
    pub fn take_pipes(&self) -> StdioPipes {
        self.stdio.take_pipes()
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Id of the pod.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// All annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// One annotation.
    ///
    /// # Errors
    /// [`Error::NoSuchAnnotation`] if the key is absent.
    pub fn annotation(&self, key: &str) -> Result<&str> {
        self.annotations
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| Error::NoSuchAnnotation { object: Object::Container(self.id.clone()), key: key.to_owned() })
    }

    /// The record of the init process; `None` if there is none.
    pub fn process(&self) -> Option<&ProcessRecord> {
        self.process.as_ref()
    }

    /// Token of the init process; empty if there is none.
    pub fn token(&self) -> &str {
        self.process.as_ref().map_or("", |process| &process.token)
    }

    /// PID of the shim of the init process; 0 if there is none.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, |process| process.shim.pid)
    }

    /// Replaces the shim's PID in the record, for callers that bring a shim of their own. 0 removes it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a PID that does not name a process (P-113), [`Error::NoSuchContainer`],
    /// [`Error::Store`].
    pub fn set_pid(&mut self, pid: i32) -> Result<()> {
        let shim = match pid {
            0 => ProcessIdentity::NONE,
            pid => ProcessIdentity::of(pid).map_err(|e| Error::invalid(format!("PID {pid}"), e.to_string()))?,
        };
        let (id, container) = crate::container::ids(&self.pod, &self.id)?;
        let pod = OpenPod::exclusive(&self.runtime, &id)?;
        let found = pod.find(&container)?;
        let record = found
            .process
            .clone()
            .ok_or_else(|| Error::NoSuchProcess { container: self.id.clone(), token: String::new() })?;
        let record = ProcessRecord { shim, ..record };
        self.runtime.store().put(&found.dirs.process_record(), &record)?;
        self.process = Some(record);
        Ok(())
    }
}
