//! From an OCI configuration to the configuration of a pod or container (P-196).

use std::path::Path;

use oci_spec::runtime::{self as oci_runtime, LinuxDevice, LinuxNamespaceType};

use super::config::{OciConfig, OciProcess, OciResources};
use super::hooks::hook_specs;
use super::{Role, BUNDLE_KEY, CONFIG_KEY, ROLE_KEY};
use crate::error::{Error, Result};
use crate::spec::{
    memory_mib, parse_env, Capabilities, Command, ContainerConfig, DeviceInfo, Hooks, MountSpec, NetworkKind,
    PodConfig, Resources,
};

/// The container of the bundle at `bundle`, whose `config.json` is `text`.
///
/// # Errors
/// [`Error::InvalidConfig`] with the section.
pub fn container_from_oci(id: &str, bundle: &Path, text: &str, role: &Role) -> Result<ContainerConfig> {
    let oci = OciConfig::parse(text)?;
    container(id, bundle, text, role, &oci)
}

/// A pod with the one container of a bundle, both named `id` (P-194). `base` provides what an OCI configuration lacks:
/// the machine, the agent, the network type.
///
/// # Errors
/// [`Error::InvalidConfig`] with the section.
pub fn pod_from_oci(id: &str, bundle: &Path, text: &str, role: &Role, base: PodConfig) -> Result<PodConfig> {
    let oci = OciConfig::parse(text)?;
    let container = container(id, bundle, text, role, &oci)?;
    let linux = oci.linux.unwrap_or_default();
    let mut pod = PodConfig { id: id.to_owned(), hostname: oci.hostname.unwrap_or_default(), ..base };
    pod.annotations.extend(container.annotations.clone());
    pod.hooks = hooks(oci.hooks.unwrap_or_default())?;
    if let Some(limit) = linux.resources.as_ref().and_then(|r| r.memory.as_ref()).and_then(|m| m.limit()) {
        pod.resources.memory_mib = memory_mib(limit)?.unwrap_or(0);
    }
    let network = linux.namespaces.iter().flatten().filter(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let given = network.filter_map(|namespace| namespace.path().clone()).find(|path| !path.as_os_str().is_empty());
    if let Some(path) = given {
        pod.network.kind = NetworkKind::Scan;
        pod.network.namespace = Some(path);
    }
    if !linux.cgroups_path.is_empty() {
        pod.cgroup.clone_from(&linux.cgroups_path);
    }
    pod.containers = vec![container];
    Ok(pod)
}

fn container(id: &str, bundle: &Path, text: &str, role: &Role, oci: &OciConfig) -> Result<ContainerConfig> {
    let missing = |section: &str| Error::invalid(format!("OCI config.json: {section}"), "is missing");
    let process = oci.process.as_ref().ok_or_else(|| missing("process"))?;
    let root = oci.root.as_ref().ok_or_else(|| missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(missing("root.path"));
    }
    let linux = oci.linux.clone().unwrap_or_default();
    let mut annotations = oci.annotations.clone().unwrap_or_default();
    annotations.insert(CONFIG_KEY.into(), text.to_owned());
    annotations.insert(BUNDLE_KEY.into(), bundle.display().to_string());
    annotations.insert(ROLE_KEY.into(), role.name().into());
    Ok(ContainerConfig {
        id: id.to_owned(),
        rootfs: bundle.join(root.path()),
        rootfs_type: String::new(),
        readonly_rootfs: root.readonly().unwrap_or_default(),
        command: command(process)?,
        annotations,
        mounts: oci.mounts.iter().flatten().map(mount).collect(),
        devices: linux.devices.iter().flatten().map(device).collect::<Result<_>>()?,
        resources: resources(linux.resources.as_ref())?,
        // The annotation has the profile.
        seccomp: None,
    })
}

fn command(process: &OciProcess) -> Result<Command> {
    let user = process.user.clone().unwrap_or_default();
    Ok(Command {
        args: process.args.clone().unwrap_or_default(),
        env: parse_env(process.env.as_deref().unwrap_or_default())?,
        cwd: process.cwd.as_deref().map(text).unwrap_or_default(),
        user: user.uid().to_string(),
        primary_group: user.gid().to_string(),
        supplementary_groups: user.additional_gids().iter().flatten().map(u32::to_string).collect(),
        interactive: process.terminal,
        no_new_privileges: process.no_new_privileges,
        capabilities: process.capabilities.as_ref().map(Capabilities::from_value).transpose()?,
        ..Command::default()
    })
}

/// A path from JSON, which is always text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount(mount: &oci_runtime::Mount) -> MountSpec {
    let options = mount.options().clone().unwrap_or_default();
    let read_only = options.iter().any(|option| option == "ro" || option == "rro");
    MountSpec {
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        destination: text(mount.destination()),
        kind: mount.typ().clone().unwrap_or_default(),
        options,
        read_only,
        host_path: None,
    }
}

fn device(device: &LinuxDevice) -> Result<DeviceInfo> {
    let what = || format!("OCI config.json: linux.devices {}", device.path().display());
    let number = |value: i64| {
        // Fifos have no numbers; some callers write -1.
        u32::try_from(value.max(0)).map_err(|_| Error::invalid(what(), "has a device number out of range"))
    };
    let info = DeviceInfo {
        host_path: None,
        container_path: device.path().clone(),
        kind: device.typ().as_str().to_owned(),
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o660),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    };
    info.validate()?;
    Ok(info)
}

fn resources(resources: Option<&OciResources>) -> Result<Resources> {
    let Some(resources) = resources else { return Ok(Resources::default()) };
    let cpu = resources.cpu.clone().unwrap_or_default();
    // Callers write 0 for "not set".
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let pair = match (quota, period) {
        (Some(quota), Some(period)) => (Some(quota), Some(period)),
        // A period without a quota has no effect.
        (None, _) => (None, None),
        (Some(quota), None) if quota < 0 => (None, None),
        (Some(_), None) => {
            return Err(Error::invalid("OCI config.json: linux.resources.cpu", "has a quota but no period; give both"))
        }
    };
    let memory = resources.memory.as_ref().and_then(|memory| memory.limit());
    if let Some(limit) = memory {
        memory_mib(limit)?;
    }
    Ok(Resources {
        cpu_quota: pair.0,
        cpu_period: pair.1,
        cpu_shares: cpu.shares().filter(|shares| *shares != 0),
        memory,
        memory_swap: resources.memory.as_ref().and_then(|memory| memory.swap()).filter(|swap| *swap != 0),
        memory_reservation: resources.memory.as_ref().and_then(|memory| memory.reservation()),
        cpuset_cpus: cpu.cpus().clone().filter(|cpus| !cpus.is_empty()),
        pids: resources.pids.as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0),
    })
}

fn hooks(hooks: oci_runtime::Hooks) -> Result<Hooks> {
    let hooks = Hooks {
        prestart: hook_specs(hooks.prestart()),
        create_runtime: hook_specs(hooks.create_runtime()),
        create_container: hook_specs(hooks.create_container()),
        start_container: hook_specs(hooks.start_container()),
        poststart: hook_specs(hooks.poststart()),
        poststop: hook_specs(hooks.poststop()),
    };
    hooks.validate()?;
    Ok(hooks)
}
