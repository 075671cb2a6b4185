//! The OCI configuration in the form that the guest gets (P-098, P-099).

use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::spec::{Capabilities, HookSpec};

/// Destinations at which files of the host make no sense in the guest (P-099).
const PSEUDO: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Size of `/dev/shm` if the host's is unknown.
const DEFAULT_SHM: u64 = 64 << 20;

/// A bind mount that the host shares with the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestBind {
    /// Destination in the container, as in the configuration.
    pub(crate) destination: String,
    /// Path of the source in the guest.
    pub(crate) source: String,
}

/// Paths and properties of the guest that the configuration must use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestPaths {
    /// Path of the root file system.
    pub(crate) rootfs: String,
    /// The shared bind mounts.
    pub(crate) binds: Vec<GuestBind>,
    /// Hooks that run in the container before its program, unless the configuration has its own.
    pub(crate) start_container: Vec<HookSpec>,
    /// Directory of the guest with hooks for each container.
    pub(crate) guest_hooks: Option<String>,
    /// Whether the guest can apply seccomp profiles.
    pub(crate) seccomp: bool,
    /// Size of the host's `/dev/shm` for the container, in bytes.
    pub(crate) shm_bytes: Option<u64>,
}

/// Whether a mount on `destination` may be shared from the host (P-099).
pub(crate) fn is_pseudo(destination: &str) -> bool {
    let clean = destination.trim_end_matches('/');
    PSEUDO.iter().any(|dir| clean == *dir || clean.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
}

fn is_shm(destination: &str) -> bool {
    destination.trim_end_matches('/') == "/dev/shm"
}

fn has_option(mount: &Value, wanted: &str) -> bool {
    let options = mount["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    options.iter().any(|option| option.as_str() == Some(wanted))
}

fn is_bind(mount: &Value) -> bool {
    let has = |wanted: &str| has_option(mount, wanted);
    match mount["type"].as_str().unwrap_or_default() {
        "bind" => true,
        "" | "none" => has("bind") || has("rbind"),
        _ => false,
    }
}

/// Whether `config` has a seccomp profile.
pub(crate) fn has_seccomp(config: &Value) -> bool {
    config["linux"]["seccomp"].is_object()
}

/// The directory of the host that `config` binds on `/dev/shm`. The guest's tmpfs gets its size.
pub(crate) fn shm_source(config: &Value) -> Option<&str> {
    let mounts = config["mounts"].as_array()?;
    let shm = mounts.iter().find(|mount| is_bind(mount) && mount["destination"].as_str().is_some_and(is_shm))?;
    shm["source"].as_str()
}

/// Bind mounts of `config` that the host must share: source, destination, read-only.
pub(crate) fn shared_binds(config: &Value) -> Vec<(String, String, bool)> {
    let mounts = config["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shared = mounts.iter().filter(|mount| is_bind(mount)).filter_map(|mount| {
        let destination = mount["destination"].as_str()?;
        let source = mount["source"].as_str()?;
        let options = mount["options"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read_only = options.iter().any(|option| matches!(option.as_str(), Some("ro" | "rro")));
        (!is_pseudo(destination)).then(|| (source.to_owned(), destination.to_owned(), read_only))
    });
    shared.collect()
}

/// Rewrites `config` for the guest. Removes host hooks, the cgroup path, the network namespace, and a seccomp profile
/// that the guest cannot apply; other namespaces lose their host path. Root path and bind sources become paths of the
/// guest, `/dev/shm` becomes a tmpfs.
///
/// # Errors
/// [`Error::InvalidConfig`] if `config` is not an object, or its capabilities are not valid.
pub(crate) fn guest_config(mut config: Value, paths: &GuestPaths) -> Result<Value> {
    let object = config.as_object_mut().ok_or_else(|| Error::invalid("OCI config.json", "is not an object"))?;
    let own_hooks = object.remove("hooks").and_then(|mut hooks| hooks.get_mut("startContainer").map(Value::take));
    let start_container = match own_hooks {
        Some(Value::Array(hooks)) if !hooks.is_empty() => Value::Array(hooks),
        _ => paths.start_container.iter().map(hook).collect(),
    };
    if start_container.as_array().is_some_and(|hooks| !hooks.is_empty()) {
        object.insert("hooks".into(), json!({"startContainer": start_container}));
    }
    let root = object.entry("root").or_insert_with(|| json!({}));
    if let Some(root) = root.as_object_mut() {
        root.insert("path".into(), json!(paths.rootfs));
    }
    let annotations = object.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        // The guest has no use for a copy of the document itself.
        annotations.remove(super::CONFIG_KEY);
        // The pod decides about these hooks, not the container.
        annotations.remove(super::GUEST_HOOKS_KEY);
        annotations.retain(|key, _| !key.starts_with(super::GUEST_PROCESS_KEYS));
        if let Some(dir) = &paths.guest_hooks {
            annotations.insert(super::GUEST_HOOKS_KEY.into(), json!(dir));
        }
    }
    if let Some(process) = object.get_mut("process").and_then(Value::as_object_mut) {
        // The flat form too; an absent list means none, as with other runtimes, and the agent sees to that.
        if let Some(capabilities) = process.get("capabilities").filter(|value| !value.is_null()) {
            let capabilities = Capabilities::from_value(capabilities)?;
            process.insert("capabilities".into(), json!(capabilities));
        }
    }
    if let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) {
        rewrite_linux(linux, paths.seccomp);
    }
    if let Some(mounts) = object.get_mut("mounts").and_then(Value::as_array_mut) {
        rewrite_mounts(mounts, paths);
    }
    Ok(config)
}

fn rewrite_linux(linux: &mut serde_json::Map<String, Value>, seccomp: bool) {
    linux.remove("cgroupsPath");
    if !seccomp {
        linux.remove("seccomp");
    }
    if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|namespace| namespace["type"] != "network");
        for namespace in namespaces.iter_mut().filter_map(Value::as_object_mut) {
            namespace.remove("path");
        }
    }
    if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
        // Device rules use numbers of the host; the guest's agent knows the devices of its container.
        resources.remove("devices");
    }
}

fn rewrite_mounts(mounts: &mut Vec<Value>, paths: &GuestPaths) {
    mounts.retain(|mount| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        !is_bind(mount) || !is_pseudo(destination) || is_shm(destination)
    });
    for mount in mounts.iter_mut() {
        let destination = mount["destination"].as_str().unwrap_or_default().to_owned();
        if is_shm(&destination) && is_bind(mount) {
            let size = format!("size={}", paths.shm_bytes.unwrap_or(DEFAULT_SHM));
            *mount = json!({
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", size],
            });
        } else if mount["type"] == "block" {
            if let Some(bind) = paths.binds.iter().find(|bind| bind.destination == destination) {
                let read_only = has_option(mount, "ro");
                let options = if read_only { vec!["rbind", "ro"] } else { vec!["rbind"] };
                *mount = json!({
                    "destination": destination, "type": "bind", "source": bind.source, "options": options,
                });
            }
        } else if let Some(bind) = paths.binds.iter().find(|bind| bind.destination == destination && is_bind(mount)) {
            mount["source"] = json!(bind.source);
        }
    }
}

fn hook(hook: &HookSpec) -> Value {
    let mut value = json!({"path": hook.path, "args": hook.args, "env": hook.env});
    if hook.timeout > 0 {
        value["timeout"] = json!(hook.timeout);
    }
    value
}
