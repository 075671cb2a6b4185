//! The host's files that a container sees, and the configuration that the guest gets (P-097 to P-100).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hutch_runtime::backend::AgentCapabilities;
use hutch_runtime::spec::oci::CONFIG_KEY;
use hutch_runtime::spec::{ContainerConfig, MountSpec, Seccomp};
use hutch_runtime_fakes::FakeHost;
use serde_json::{json, Value};

use crate::support::{finish, running};

/// A container with an OCI configuration.
fn with_oci(host: &FakeHost, id: &str, oci: &Value) -> ContainerConfig {
    let mut config = host.container(id);
    config.annotations = BTreeMap::from([(CONFIG_KEY.to_owned(), oci.to_string())]);
    config
}

#[test]
fn p_098_the_guest_gets_a_configuration_without_the_hosts_things() {
    let (host, runtime) = running(&[]);
    let data = host.dir().join("data");
    std::fs::create_dir(&data).unwrap();
    let oci = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["serve"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "hooks": {"prestart": [{"path": "/bin/x"}], "startContainer": [{"path": "/bin/y"}]},
        "mounts": [
            {"destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ],
        "linux": {
            "cgroupsPath": "/host/path",
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
            "namespaces": [
                {"type": "network", "path": "/var/run/netns/x"},
                {"type": "pid", "path": "/proc/1/ns/pid"},
                {"type": "mount"},
            ],
            "unknownToUs": 1,
        },
    });
    runtime.create_container("p", with_oci(&host, "a", &oci)).unwrap();
    let spec = host.guest("p", |guest| guest.spec("a")).unwrap();
    assert_eq!(spec["hooks"], json!({"startContainer": [{"path": "/bin/y"}]}));
    let linux = &spec["linux"];
    assert!(linux.get("cgroupsPath").is_none() && linux.get("seccomp").is_none());
    assert_eq!(linux["namespaces"], json!([{"type": "pid"}, {"type": "mount"}]));
    assert_eq!(linux["unknownToUs"], 1, "what the host does not know reaches the guest");
    assert!(spec["root"]["path"].as_str().unwrap().starts_with("/run/hutch/shared/a-"));
    let mounts = spec["mounts"].as_array().unwrap();
    let find = |destination: &str| mounts.iter().find(|m| m["destination"] == destination).unwrap();
    assert!(find("/data")["source"].as_str().unwrap().starts_with("/run/hutch/shared/a-"));
    assert_eq!(find("/dev/shm")["type"], "tmpfs");
    assert_eq!(find("/proc")["source"], "proc");
    finish(&host, &runtime);
}

#[test]
fn p_099_binds_on_pseudo_file_systems_are_not_shared() {
    let (host, runtime) = running(&[]);
    let source = host.dir().display().to_string();
    let bind = |destination: &str| MountSpec {
        source: source.clone(),
        destination: destination.into(),
        kind: "bind".into(),
        ..MountSpec::default()
    };
    let mut config = host.container("a");
    config.mounts = vec![bind("/proc/cpuinfo"), bind("/sys/fs/x"), bind("/dev/tty9"), bind("/device"), bind("/data")];
    runtime.create_container("p", config).unwrap();
    let shared: Vec<String> = host
        .mounts()
        .iter()
        .filter_map(|target| target.file_name()?.to_str()?.rsplit('-').next().map(str::to_owned))
        .collect();
    assert_eq!(shared.len(), 3, "{shared:?}");
    assert!(["rootfs", "device", "data"].iter().all(|name| shared.iter().any(|s| s == name)), "{shared:?}");
    let spec = host.guest("p", |guest| guest.spec("a")).unwrap();
    let text = spec["mounts"].to_string();
    assert!(!text.contains("cpuinfo") && !text.contains("tty9"), "{text}");
    finish(&host, &runtime);
}

#[test]
fn p_100_a_bind_has_links_resolved_a_telling_name_and_its_read_only_flag() {
    let (host, runtime) = running(&[]);
    let real = host.dir().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, host.dir().join("link")).unwrap();
    let mut config = host.container("box");
    config.mounts = vec![MountSpec {
        source: host.dir().join("link").display().to_string(),
        destination: "/var/lib/data".into(),
        kind: "bind".into(),
        options: vec!["rbind".into(), "ro".into()],
        ..MountSpec::default()
    }];
    runtime.create_container("p", config).unwrap();
    let text = std::fs::read(host.dir().join("run/p/box/mounts.json")).unwrap();
    let record: Value = serde_json::from_slice(&text).unwrap();
    let bind = record["data"].as_array().unwrap().iter().find(|b| b["destination"] == "/var/lib/data").unwrap();
    assert_eq!(bind["source"].as_str().unwrap(), real.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(bind["read_only"], true);
    let name = bind["target"].as_str().unwrap().rsplit('/').next().unwrap();
    let parts: Vec<&str> = name.split('-').collect();
    assert_eq!((parts[0], parts[2]), ("box", "data"));
    assert!(parts[1].len() == 16 && parts[1].bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    finish(&host, &runtime);
}

/// The user stays text up to the guest (P-124).
#[test]
fn p_124_names_of_users_reach_the_guest_as_they_are() {
    let (host, runtime) = running(&[]);
    let mut config = host.container("a");
    config.command.user = "www:web".into();
    config.command.supplementary_groups = vec!["audio".into(), "44".into()];
    runtime.create_container("p", config).unwrap();
    let (user, groups) = host.guest("p", |guest| guest.users["a"].clone());
    assert_eq!((user.as_deref(), groups), (Some("www:web"), vec!["audio".to_owned(), "44".to_owned()]));
    finish(&host, &runtime);
}

/// An annotation may come from others than those who decide about users.
#[test]
fn p_124_annotations_never_set_the_user_of_a_process() {
    let (host, runtime) = running(&[]);
    let annotations = [("dev.hutch.process.user", "0:0"), ("dev.hutch.process.groups", "0"), ("a", "b")];
    let annotations: std::collections::BTreeMap<String, String> =
        annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut derived = host.container("a");
    derived.command.user = "33:33".into();
    derived.annotations = annotations.clone();
    let mut with_document = host.container("b");
    let document = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["serve"], "cwd": "/", "user": {"uid": 33, "gid": 33}},
        "root": {"path": "rootfs"},
        "annotations": annotations,
    });
    with_document.annotations = annotations.clone();
    with_document.annotations.insert(hutch_runtime::spec::oci::CONFIG_KEY.into(), document.to_string());
    for config in [derived, with_document] {
        let id = config.id.clone();
        runtime.create_container("p", config).unwrap();
        let (spec, user) = host.guest("p", |guest| (guest.spec(&id).unwrap(), guest.users[&id].clone()));
        let keys: Vec<&str> = spec["annotations"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(!keys.iter().any(|key| key.starts_with("dev.hutch.process.")), "{keys:?}");
        assert_eq!(spec["annotations"]["a"], "b");
        assert_eq!(spec["process"]["user"]["uid"], 33);
        let expected = if id == "a" { Some("33:33".to_owned()) } else { None };
        assert_eq!(user, (expected, Vec::new()));
    }
    finish(&host, &runtime);
}

/// An exec gets the capabilities that its command names; without any, the guest gives it its container's.
#[test]
fn p_124_capabilities_of_an_exec_reach_the_guest() {
    let (host, runtime) = running(&["a"]);
    let mut command = hutch_runtime::spec::Command { args: vec!["serve".into()], detach: true, ..Default::default() };
    runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    assert_eq!(host.guest("p", |guest| guest.last_process.clone()).unwrap().capabilities, None);
    command.capabilities =
        Some(hutch_runtime::spec::Capabilities { bounding: vec!["CAP_KILL".into()], ..Default::default() });
    runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    let sets = host.guest("p", |guest| guest.last_process.clone()).unwrap().capabilities.unwrap();
    assert_eq!((sets.bounding.as_slice(), sets.permitted.len()), (["CAP_KILL".to_owned()].as_slice(), 0));
    finish(&host, &runtime);
}

/// One flat list, as some callers write it, is one list for each set.
#[test]
fn p_098_a_flat_list_of_capabilities_reaches_the_guest_as_sets() {
    let (host, runtime) = running(&[]);
    for (id, given, expected) in [
        ("a", serde_json::json!(["CAP_KILL"]), serde_json::json!(["CAP_KILL"])),
        ("b", serde_json::json!({"bounding": ["CAP_CHOWN"]}), serde_json::json!([])),
    ] {
        let mut config = host.container(id);
        let document = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["serve"], "cwd": "/", "capabilities": given},
            "root": {"path": "rootfs"},
        });
        config.annotations.insert(hutch_runtime::spec::oci::CONFIG_KEY.into(), document.to_string());
        runtime.create_container("p", config).unwrap();
        let spec = host.guest("p", |guest| guest.spec(id)).unwrap();
        assert_eq!(spec["process"]["capabilities"]["permitted"], expected, "{id}");
    }
    finish(&host, &runtime);
}

/// The specification of a shim: P-097.
#[test]
fn p_097_a_shim_joins_the_pods_network_and_gets_the_console() {
    let (host, runtime) = running(&[]);
    let mut config = host.container("a");
    config.command.console = Some("/dev/pts/77".into());
    config.command.interactive = true;
    runtime.create_container("p", config).unwrap();
    let spec = host.shim("a").unwrap();
    assert_eq!(spec.network_namespace, Some(host.namespace("p")));
    assert_eq!(spec.console, Some("/dev/pts/77".into()));
    assert!(spec.terminal && spec.stdin);
    assert_eq!(spec.pid_namespace, hutch_runtime::backend::PidNamespace::New);
    finish(&host, &runtime);
}

/// The log of the runtime in this process.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// The profile of a guest that cannot apply it is removed, and that is said once.
#[test]
fn p_098_a_dropped_seccomp_profile_is_logged() {
    let lines = Arc::new(Lines::default());
    let (host, runtime) = running(&[]);
    runtime.set_logger(lines.clone());
    let least = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let config = |profile: serde_json::Value| json!({"process": {"args": ["serve"], "cwd": "/"}, "root": {"path": "r"}, "linux": {"seccomp": profile}});
    runtime.create_container("p", with_oci(&host, "profiled", &config(least))).unwrap();
    runtime.create_container("p", with_oci(&host, "unprofiled", &config(json!(null)))).unwrap();
    let said = |name: &str| {
        let lines = lines.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(&format!("container {name}: ")) && line.contains("seccomp")).count()
    };
    assert_eq!((said("profiled"), said("unprofiled")), (1, 0));
    finish(&host, &runtime);
}

/// The profile of a configuration: given as a file or in full, it is recorded in full; it is applied by a guest that
/// can, and its mistakes are found before anything is made.
#[test]
fn p_098_a_profile_reaches_a_guest_that_applies_it() {
    let (host, runtime) = running(&[]);
    host.set_agent_capabilities(AgentCapabilities { seccomp: true, ..AgentCapabilities::default() });
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}]});
    let file = host.dir().join("profile.json");
    std::fs::write(&file, profile.to_string()).unwrap();
    let mut from_file = host.container("file");
    from_file.seccomp = Some(Seccomp::File(file.clone()));
    runtime.create_container("p", from_file).unwrap();
    // A later restart does not need the file.
    std::fs::write(&file, "{").unwrap();
    let record: Value =
        serde_json::from_slice(&std::fs::read(host.dir().join("config/p/file/config.json")).unwrap()).unwrap();
    assert_eq!(record["data"]["seccomp"], profile);
    let other = json!({"defaultAction": "SCMP_ACT_LOG"});
    let oci = json!({"process": {"args": ["serve"], "cwd": "/"}, "root": {"path": "r"}, "linux": {"seccomp": other}});
    runtime.create_container("p", with_oci(&host, "oci", &oci)).unwrap();
    let mut both = with_oci(&host, "both", &oci);
    both.seccomp = Some(Seccomp::Profile(serde_json::from_value(profile.clone()).unwrap()));
    runtime.create_container("p", both).unwrap();
    runtime.create_container("p", host.container("none")).unwrap();
    let seen = |id: &str| host.guest("p", |guest| guest.spec(id)).unwrap()["linux"]["seccomp"].clone();
    assert_eq!((seen("file"), seen("oci")), (profile.clone(), other));
    assert_eq!((seen("both"), seen("none")), (profile, Value::Null));

    let mut broken = host.container("broken");
    broken.seccomp = Some(Seccomp::File(file));
    let mut listened = oci.clone();
    listened["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    host.calls();
    for (config, words) in [(broken, "profile.json"), (with_oci(&host, "broken", &listened), "SCMP_ACT_NOTIFY")] {
        let error = runtime.create_container("p", config).expect_err("a refusal").to_string();
        assert!(error.contains("broken") && error.contains(words), "{error}");
    }
    assert!(host.calls().is_empty(), "nothing was made");
    finish(&host, &runtime);
}
