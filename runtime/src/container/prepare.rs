//! Preparing a container for its start: root file system, binds, devices, the container in the
//! guest, its shim. The middle part of CreateContainer, and of a restart (P-094).

use hutch_agent_proto::{RemoteErrorKind, Request, WindowSize};
use serde_json::{json, Value};

use crate::backend::{PidNamespace, ShimSpec};
use crate::container::{ContainerRef, OpenContainer};
use crate::error::{Component, Error, Result};
use crate::id::{random_hex, ContainerId};
use crate::logger;
use crate::pod::{guarded, OpenPod};
use crate::spec::oci::{derive_config, guest_config, has_seccomp, put_limits, CONFIG_KEY};
use crate::spec::{ContainerConfig, Seccomp};
use crate::state::State;
use crate::store::{ContainerState, Place, ProcessRecord};
use crate::timestamp::Timestamp;

impl<'r> OpenPod<'r> {
    /// Adds a container to the pod in memory and prepares it, which makes it `ready`. On failure the caller rolls it
    /// back.
    pub(crate) fn add_container(&mut self, config: ContainerConfig) -> Result<ContainerRef<'_, 'r>> {
        let id = ContainerId::new(&config.id)?;
        let oci = self.oci_config(&config)?;
        let dirs = self.dirs.container(&id);
        // Leftovers of an earlier attempt must not be mistaken for this one's records (P-048).
        self.store().remove_known(dirs.run_dir(), Place::ContainerRun)?;
        self.store().make_dir(dirs.run_dir())?;
        self.store().make_dir(dirs.config_dir())?;
        let mut container = self.push_container(OpenContainer::new(id, dirs, config));
        container.put_state(ContainerState::default())?;
        if let Err(error) = container.prepare(oci.clone()) {
            let Error::Backend { source, .. } = &error else { return Err(error) };
            if source.remote_kind() != Some(RemoteErrorKind::AlreadyExists) {
                return Err(error);
            }
            // The answer to an earlier creation came too late: the host gave the container up, the guest has it.
            logger::warn!("pod {}: the guest has a container {} that the host gave up", container.pod.id, container.id);
            container.roll_back()?;
            container.prepare(oci)?;
        }
        container.set_state(State::Ready, |_| {})?;
        Ok(container)
    }

    /// The OCI configuration of a container, with the host's paths.
    pub(crate) fn oci_config(&mut self, config: &ContainerConfig) -> Result<Value> {
        let mut oci = self.bare_oci_config(config)?;
        self.resolve_volumes(&mut oci)?;
        Ok(oci)
    }

    fn bare_oci_config(&self, config: &ContainerConfig) -> Result<Value> {
        let mut oci = match config.annotations.get(CONFIG_KEY) {
            Some(text) => serde_json::from_str(text).map_err(|e| {
                Error::invalid(format!("container {}: annotation {CONFIG_KEY}", config.id), e.to_string())
            }),
            None if self.config.agent.require_oci_config => Err(Error::invalid(
                format!("container {}: annotation {CONFIG_KEY}", config.id),
                "is missing, and the agent of this pod requires it",
            )),
            None => derive_config(config, self.config.guest_hostname()),
        }?;
        // Those of a document are the limits at the creation; they may have been changed since.
        put_limits(&mut oci, &config.resources);
        // A profile that is configured beside the OCI document was meant to replace the document's.
        if let (Some(Seccomp::Profile(profile)), Some(oci)) = (&config.seccomp, oci.as_object_mut()) {
            let linux = oci.entry("linux").or_insert_with(|| json!({}));
            if let Some(linux) = linux.as_object_mut() {
                linux.insert("seccomp".into(), json!(profile));
            }
        }
        Ok(oci)
    }

    /// A name for a guest process that is unique in the pod.
    pub(crate) fn fresh_token(&self) -> Result<String> {
        random_hex(8)
    }

    /// The part of a shim's specification that is the same in the whole pod.
    pub(crate) fn shim_base(&self) -> Result<ShimSpec> {
        let network = self.store().get(&self.dirs.network_record())?;
        Ok(ShimSpec {
            pod: self.id.to_string(),
            container: String::new(),
            token: String::new(),
            socket: self.sandbox.record().map(|record| record.socket.clone()).unwrap_or_default(),
            exit_record: Default::default(),
            failure_record: self.dirs.failure_record().path().to_owned(),
            console: None,
            terminal: false,
            stdin: false,
            detach: true,
            stdio: Default::default(),
            network_namespace: network.and_then(|network| network.namespace),
            pid_namespace: PidNamespace::New,
            jail: self.config.hypervisor.jail,
        })
    }
}

impl ContainerRef<'_, '_> {
    /// Prepares the container for its start. Does not change its state.
    pub(crate) fn prepare(&mut self, oci: Value) -> Result<()> {
        let drive = self.plug_root()?;
        self.plug_devices()?;
        let id = self.id.clone();
        self.pod.sync_size_with(Some(&id))?;
        let paths = self.share(&oci, drive)?;
        if !paths.seccomp && has_seccomp(&oci) {
            logger::warn!(
                "pod {}: container {id}: the guest does not apply seccomp profiles; it runs without its profile",
                self.pod.id
            );
        }
        let spec = guest_config(oci, &paths)?;
        let token = self.pod.fresh_token()?;
        let command = &self.config.command;
        // A container with an OCI document has its user there, as numbers.
        let (user, groups) = match self.config.annotations.contains_key(CONFIG_KEY) {
            true => (None, Vec::new()),
            false => (Some(command.guest_user()?), command.supplementary_groups.clone()),
        };
        let request = Request::CreateContainer {
            id: id.to_string(),
            token: token.clone(),
            spec: Box::new(spec),
            user,
            groups,
            terminal_size: command.interactive.then(WindowSize::default),
            stdin: command.has_stdin(),
        };
        self.expect_hooks();
        let in_memory = self.pod.files_in_memory(std::slice::from_ref(&self.config), &[]);
        self.pod.count_files_in_memory(in_memory)?;
        self.pod.sandbox.call("create-container", request)?;
        self.spawn_shim(token)
    }

    /// The shim is recorded before it may act (P-206).
    fn spawn_shim(&mut self, token: String) -> Result<()> {
        let (shims, store) = (self.pod.sandbox.backends.shims.clone(), self.pod.store());
        let exit = self.dirs.exit_record();
        let command = &self.config.command;
        let spec = ShimSpec {
            container: self.id.to_string(),
            token: token.clone(),
            exit_record: exit.path().to_owned(),
            console: command.console.clone(),
            terminal: command.interactive,
            stdin: command.has_stdin(),
            detach: command.detach,
            stdio: command.stdio.clone(),
            pid_namespace: PidNamespace::New,
            ..self.pod.shim_base()?
        };
        store.delete(&exit)?;
        let shim = guarded(Component::Shim, "spawn", || shims.spawn(&spec))?;
        let record = ProcessRecord { token, shim: shim.process(), started_at: Timestamp::now() };
        store.put(&self.dirs.process_record(), &record)?;
        self.process = Some(record);
        self.pod.join_cgroup(shim.process())?;
        guarded(Component::Shim, "start", || shim.start())
    }
}
