//! The OCI configuration of a container that has none, derived from the container's own fields.

use serde_json::{json, Value};

use crate::error::Result;
use crate::spec::{Command, ContainerConfig, Resources};

/// Capabilities of a container whose configuration names none.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
const MASKED: [&str; 7] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The whole configuration, with paths of the host.
pub(crate) fn derive_config(config: &ContainerConfig, hostname: &str) -> Result<Value> {
    let mut mounts = default_mounts();
    for mount in &config.mounts {
        mounts.retain(|default| default["destination"] != mount.destination.as_str());
        let mut options = mount.options.clone();
        if mount.is_bind() && !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".into());
        }
        if mount.is_read_only() && !options.iter().any(|option| option == "ro") {
            options.push("ro".into());
        }
        let (source, kind) = match (mount.is_bind(), mount.kind.as_str()) {
            (true, _) => (mount.source.as_str(), "bind"),
            (false, kind) if mount.source.is_empty() => (kind, kind),
            (false, kind) => (mount.source.as_str(), kind),
        };
        mounts.push(json!({"destination": mount.destination, "source": source, "type": kind, "options": options}));
    }
    let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind})).to_vec();
    let mut oci = json!({
        "ociVersion": "1.2.0",
        "process": process(&config.command),
        "root": {"path": config.rootfs, "readonly": config.readonly_rootfs},
        "hostname": hostname,
        "mounts": mounts,
        "annotations": config.annotations,
        "linux": {
            "namespaces": namespaces,
            "resources": {},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    put_limits(&mut oci, &config.resources);
    Ok(oci)
}

fn process(command: &Command) -> Value {
    let env: Vec<String> = command.env.iter().map(|var| format!("{}={}", var.name, var.value)).collect();
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let (user, group) = command.user.split_once(':').unwrap_or((&command.user, ""));
    let group = if command.primary_group.is_empty() { group } else { &command.primary_group };
    let groups: Vec<u32> = command.supplementary_groups.iter().filter_map(|group| group.parse().ok()).collect();
    let capabilities = match &command.capabilities {
        Some(sets) => json!(sets),
        None => json!({
            "bounding": DEFAULT_CAPABILITIES,
            "effective": DEFAULT_CAPABILITIES,
            "permitted": DEFAULT_CAPABILITIES,
        }),
    };
    json!({
        "terminal": command.interactive,
        // The agent resolves names, which are in its request; these numbers serve where the configuration has numbers.
        "user": {"uid": number(user), "gid": number(group), "additionalGids": groups},
        "args": command.args,
        "env": env,
        "cwd": if command.cwd.is_empty() { "/" } else { &command.cwd },
        "capabilities": capabilities,
        "noNewPrivileges": command.no_new_privileges,
    })
}

/// Puts the limits that are set into an OCI document. Its other limits stay. A document that is not one is left to the
/// check that refuses it.
pub(crate) fn put_limits(oci: &mut Value, resources: &Resources) {
    let mut put = |name: &str, key: &str, value: Option<Value>| {
        let Some(value) = value else { return };
        let section = ["linux", "resources", name].iter().try_fold(&mut *oci, |object, name| {
            let section = object.as_object_mut()?.entry(*name).or_insert(Value::Null);
            if section.is_null() {
                *section = json!({});
            }
            Some(section)
        });
        if let Some(section) = section.and_then(Value::as_object_mut) {
            section.insert(key.into(), value);
        }
    };
    put("memory", "limit", resources.memory.map(Value::from));
    put("memory", "swap", resources.memory_swap.map(Value::from));
    put("memory", "reservation", resources.memory_reservation.map(Value::from));
    put("pids", "limit", resources.pids.map(Value::from));
    put("cpu", "quota", resources.cpu_quota.map(Value::from));
    put("cpu", "period", resources.cpu_quota.map(|_| resources.cpu_period.unwrap_or(100_000).into()));
    put("cpu", "shares", resources.cpu_shares.map(Value::from));
    put("cpu", "cpus", resources.cpuset_cpus.clone().map(Value::from));
}

fn default_mounts() -> Vec<Value> {
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    ]
}
