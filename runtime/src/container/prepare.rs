//! Everything a container needs before it can be started: root file system, binds, devices, the container in the
//! guest, its shim. The middle part of CreateContainer, and of a restart (P-094).

use hutch_agent_proto::{Request, WindowSize};
use serde_json::{json, Value};

use crate::backend::{PidNamespace, ShimSpec};
use crate::error::{Component, Error, Result};
use crate::id::{random_hex, ContainerId};
use crate::logger;
use crate::pod::{guarded, OpenContainer, OpenPod};
use crate::spec::oci::{derive_config, guest_config, has_seccomp, CONFIG_KEY};
use crate::spec::{ContainerConfig, Seccomp};
use crate::state::State;
use crate::store::{ContainerState, DevicesRecord, MountsRecord, ProcessRecord};
use crate::timestamp::Timestamp;

impl OpenPod<'_> {
    /// Adds a container to the pod in memory and prepares it; it is `ready` then. On failure the caller takes it back.
    pub(crate) fn add_container(&mut self, config: ContainerConfig) -> Result<usize> {
        let id = ContainerId::new(&config.id)?;
        let oci = self.oci_config(&config)?;
        let dirs = self.dirs.container(&id);
        // What an earlier attempt left must not be mistaken for this one's (P-048).
        self.store().remove_dir(dirs.run_dir())?;
        self.store().make_dir(dirs.run_dir())?;
        self.store().make_dir(dirs.config_dir())?;
        let devices = DevicesRecord(config.machine_devices());
        self.containers.push(OpenContainer {
            id,
            dirs,
            config,
            state: ContainerState::default(),
            process: None,
            mounts: MountsRecord::default(),
            devices,
        });
        let index = self.containers.len() - 1;
        self.put_container(index, ContainerState::default())?;
        self.prepare_container(index, oci)?;
        self.set_container_state(index, State::Ready, |_| {})?;
        Ok(index)
    }

    /// Prepares a container that is in the list. Does not change its state.
    pub(crate) fn prepare_container(&mut self, index: usize, oci: Value) -> Result<()> {
        let drive = self.plug_root(index)?;
        self.plug_devices(index)?;
        self.sync_size_with(Some(index))?;
        let paths = self.share(index, &oci, drive)?;
        if !paths.seccomp && has_seccomp(&oci) {
            let container = &self.containers[index].id;
            logger::warn!(
                "pod {}: container {container}: the guest does not apply seccomp profiles; it runs without its profile",
                self.id
            );
        }
        let spec = guest_config(oci, &paths)?;
        let token = self.fresh_token()?;
        let command = &self.containers[index].config.command;
        let request = Request::CreateContainer {
            id: self.containers[index].id.to_string(),
            token: token.clone(),
            spec: Box::new(spec),
            terminal_size: command.interactive.then(WindowSize::default),
            stdin: command.has_stdin(),
        };
        self.expect_hooks(index);
        self.live.ask("create-container", request)?;
        self.give_shim(index, token)
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
        // What is said beside the whole is said on purpose.
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

    /// The shim is recorded before it may do anything (P-206).
    fn give_shim(&mut self, index: usize, token: String) -> Result<()> {
        let shims = self.live.backends.shims.clone();
        let container = &self.containers[index];
        let exit = container.dirs.exit_record();
        let spec = ShimSpec {
            container: container.id.to_string(),
            token: token.clone(),
            exit_record: exit.path().to_owned(),
            console: container.config.command.console.clone(),
            terminal: container.config.command.interactive,
            stdin: container.config.command.has_stdin(),
            detach: container.config.command.detach,
            stdio: container.config.command.stdio.clone(),
            pid_namespace: PidNamespace::New,
            ..self.shim_base()?
        };
        self.store().delete(&exit)?;
        let shim = guarded(Component::Shim, "spawn", || shims.spawn(&spec))?;
        let record = ProcessRecord { token, shim: shim.process(), started_at: Timestamp::now() };
        let container = &mut self.containers[index];
        self.rt.store().put(&container.dirs.process_record(), &record)?;
        container.process = Some(record);
        self.join_cgroup(shim.process())?;
        guarded(Component::Shim, "start", || shim.start())
    }

    /// What all shims of the pod have in common.
    pub(crate) fn shim_base(&self) -> Result<ShimSpec> {
        let network = self.store().get(&self.dirs.network_record())?;
        Ok(ShimSpec {
            pod: self.id.to_string(),
            container: String::new(),
            token: String::new(),
            socket: self.live.record().map(|record| record.socket.clone()).unwrap_or_default(),
            exit_record: Default::default(),
            failure_record: self.dirs.failure_record().path().to_owned(),
            console: None,
            terminal: false,
            stdin: false,
            detach: true,
            stdio: Default::default(),
            network_namespace: network.and_then(|network| network.namespace),
            pid_namespace: PidNamespace::New,
        })
    }
}
