//! Create from a bundle (P-194, P-197).

use std::path::Path;

use crate::container::ContainerHandle;
use crate::error::{Error, Result};
use crate::id::PodId;
use crate::logger;
use crate::oci::write_pid_file;
use crate::runtime::Runtime;
use crate::spec::oci::{classify, container_from_oci, pod_from_oci, OciConfig, Role};
use crate::spec::PodConfig;

/// A bundle to create a container from, and the options of the caller.
#[derive(Debug, Clone)]
pub struct Bundle<'a> {
    /// Id of the container; unique on the host.
    pub id: &'a str,
    /// The bundle directory, with `config.json`.
    pub path: &'a Path,
    /// Machine, agent and network of the pod that is created for it.
    pub base: PodConfig,
    /// Terminal for the container's process.
    pub console: Option<&'a Path>,
    /// The caller does not wait for the container.
    pub detach: bool,
    /// File for the container's PID; written last.
    pub pid_file: Option<&'a Path>,
}

impl Runtime {
    /// Creates a container from a bundle: in the pod that its annotations name, or in a pod of its own (P-193, P-194).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::AlreadyExists`] for an id in use anywhere on the host (P-192); else as
    /// [`Runtime::create_pod`] and [`Runtime::create_container`]. A failed call leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::oci::{Bundle, OciStatus};
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// # let bundle = host.dir().join("bundle");
    /// # std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    /// std::fs::write(
    ///     bundle.join("config.json"),
    ///     r#"{"ociVersion":"1.2.0","process":{"args":["serve"],"cwd":"/"},"root":{"path":"rootfs"}}"#,
    /// ).unwrap();
    /// let bundle = Bundle {
    ///     id: "web", path: &bundle, base: host.pod("", &[]), console: None, detach: true, pid_file: None,
    /// };
    /// runtime.oci_create(bundle)?;
    /// assert_eq!(runtime.oci_state("web")?.status, OciStatus::Created);
    /// runtime.oci_start("web")?;
    /// assert_eq!(runtime.oci_state("web")?.status, OciStatus::Running);
    /// runtime.oci_delete("web", true)?;
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn oci_create(&self, bundle: Bundle<'_>) -> Result<ContainerHandle> {
        let file = bundle.path.join("config.json");
        let text =
            std::fs::read_to_string(&file).map_err(|e| Error::invalid(file.display().to_string(), e.to_string()))?;
        let path = bundle.path.canonicalize().map_err(|e| Error::invalid(file.display().to_string(), e.to_string()))?;
        let role = classify(&OciConfig::parse(&text)?.annotations.unwrap_or_default())?;
        // Others that want the id wait, and then find it taken.
        let _reserved = self.store().reserve(&PodId::new(bundle.id)?, self.options().lock_timeout)?;
        self.check_unused(bundle.id)?;
        let handle = match &role {
            Role::Single | Role::Sandbox => {
                let mut config = pod_from_oci(bundle.id, &path, &text, &role, bundle.base.clone())?;
                for container in &mut config.containers {
                    container.command.console = bundle.console.map(ToOwned::to_owned);
                    container.command.detach = bundle.detach;
                }
                let pod = self.create_pod(config)?;
                pod.container(bundle.id)?
                    .ok_or_else(|| Error::NoSuchContainer { pod: bundle.id.into(), container: bundle.id.into() })?
            }
            Role::Member { pod } => {
                let mut config = container_from_oci(bundle.id, &path, &text, &role)?;
                config.command.console = bundle.console.map(ToOwned::to_owned);
                config.command.detach = bundle.detach;
                self.create_container(pod, config)?.1
            }
        };
        if let Some(pid_file) = bundle.pid_file
            && let Err(error) = write_pid_file(pid_file, handle.pid())
        {
            if let Err(error) = self.oci_delete(bundle.id, true) {
                logger::warn!("container {}: rolling back its creation: {}", bundle.id, error.chain());
            }
            return Err(error);
        }
        Ok(handle)
    }
}
