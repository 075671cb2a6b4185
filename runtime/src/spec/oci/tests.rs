//! Tests of the OCI mapping, with numbers of the contract.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{json, Value};

use super::*;
use crate::error::ErrorKind;
use crate::spec::{NetworkKind, PodConfig};

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn full() -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": true,
            "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10]},
            "args": ["/bin/server", "-x"],
            "env": ["PATH=/bin", "OPTS=a=b", "EMPTY="],
            "cwd": "/srv",
            "capabilities": {"bounding": ["CAP_KILL"]},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "host",
        "mounts": [{"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]}],
        "hooks": {
            "prestart": [{"path": "/bin/pre", "args": ["pre"], "timeout": 5}],
            "createRuntime": [{"path": "/bin/cr"}],
            "poststop": [{"path": "/bin/post"}]
        },
        "annotations": {"org.example.x": "y"},
        "linux": {
            "namespaces": [{"type": "network", "path": "/run/netns/x"}, {"type": "pid"}],
            "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438}],
            "resources": {"cpu": {"quota": 50000, "period": 100000, "shares": 512}, "memory": {"limit": 1048577}}
        },
        "somethingNew": {"ignored": true}
    })
}

#[test]
fn p_196_an_oci_configuration_becomes_a_pod() {
    let text = full().to_string();
    let pod = pod_from_oci("c1", Path::new("/bundle"), &text, &Role::Sandbox, PodConfig::default()).unwrap();
    assert_eq!((pod.id.as_str(), pod.hostname.as_str(), pod.resources.memory_mib), ("c1", "host", 2));
    assert_eq!(
        (pod.network.kind, pod.network.namespace.as_deref()),
        (NetworkKind::Scan, Some("/run/netns/x".as_ref()))
    );
    assert_eq!((pod.hooks.prestart[0].timeout, pod.hooks.create_runtime.len(), pod.hooks.poststop.len()), (5, 1, 1));
    assert_eq!(pod.containers.len(), 1, "exactly one container (P-194)");
    let container = &pod.containers[0];
    assert_eq!((container.id.as_str(), container.rootfs.as_path()), ("c1", Path::new("/bundle/rootfs")));
    assert!(container.readonly_rootfs);
    let command = &container.command;
    assert_eq!((command.user.as_str(), command.primary_group.as_str(), command.cwd.as_str()), ("7", "8", "/srv"));
    assert_eq!(command.supplementary_groups, ["9", "10"]);
    assert!(command.interactive && command.no_new_privileges);
    assert_eq!(command.env[1].value, "a=b");
    assert_eq!(command.capabilities.as_ref().unwrap().bounding, ["CAP_KILL"]);
    assert!(container.mounts[0].is_read_only() && container.mounts[0].is_bind());
    assert_eq!((container.devices[0].major, container.devices[0].minor, container.devices[0].mode), (1, 3, 0o666));
    let resources = &container.resources;
    assert_eq!(
        (resources.cpu_quota, resources.cpu_period, resources.cpu_shares),
        (Some(50000), Some(100000), Some(512))
    );
    assert_eq!(container.annotations["org.example.x"], "y");
    assert_eq!(container.annotations[CONFIG_KEY], text);
    assert_eq!(container.annotations[BUNDLE_KEY], "/bundle");
    assert_eq!(container.annotations[ROLE_KEY], "sandbox");
}

#[test]
fn p_196_an_absolute_root_stays_and_a_relative_one_is_below_the_bundle() {
    let mut config = full();
    config["root"]["path"] = "/images/x".into();
    let container = container_from_oci("c", Path::new("/b"), &config.to_string(), &Role::Single).unwrap();
    assert_eq!(container.rootfs, Path::new("/images/x"));
}

/// P-007: no absence and no odd value makes anything panic.
#[test]
fn p_007_absent_and_odd_sections_are_defaults_or_errors() {
    let map =
        |config: &Value| pod_from_oci("c", Path::new("/b"), &config.to_string(), &Role::Single, PodConfig::default());
    for optional in ["hostname", "mounts", "hooks", "annotations", "linux", "ociVersion"] {
        let mut config = full();
        config.as_object_mut().unwrap().remove(optional);
        map(&config).unwrap_or_else(|e| panic!("{optional}: {e}"));
    }
    for path in ["/linux/resources", "/linux/namespaces", "/linux/devices", "/process/user", "/process/capabilities"] {
        let mut config = full();
        let (parent, name) = path.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        map(&config).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    for required in ["process", "root"] {
        let mut config = full();
        config.as_object_mut().unwrap().remove(required);
        let error = map(&config).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(required), "{error}");
    }
    // Every value replaced by every odd one.
    let mut paths = Vec::new();
    collect("", &full(), &mut paths);
    assert!(paths.len() > 50);
    for path in paths {
        for odd in [json!(null), json!(-1), json!("x"), json!([]), json!({}), json!(1e300), json!([null])] {
            let mut config = full();
            *config.pointer_mut(&path).unwrap() = odd;
            if let Ok(pod) = map(&config) {
                let _ = pod.complete();
            }
        }
    }
    for text in ["", "null", "[]", "{}", "{\"process\":null}", "\u{0}"] {
        assert!(pod_from_oci("c", Path::new("/b"), text, &Role::Single, PodConfig::default()).is_err(), "{text:?}");
    }
}

fn collect(prefix: &str, value: &Value, paths: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let path = format!("{prefix}/{name}");
        paths.push(path.clone());
        collect(&path, child, paths);
    }
}

#[test]
fn p_196_devices_and_cpu_limits_are_whole_or_refused() {
    let with = |path: &str, value: Value| {
        let mut config = full();
        *config.pointer_mut(path).unwrap() = value;
        container_from_oci("c", Path::new("/b"), &config.to_string(), &Role::Single)
    };
    for bad in [json!([{"path": "", "type": "c"}]), json!([{"path": "/dev/x", "type": "z"}])] {
        assert_eq!(with("/linux/devices", bad).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    let quota = json!({"cpu": {"quota": 1000}});
    assert_eq!(with("/linux/resources", quota).unwrap_err().kind(), ErrorKind::InvalidConfig, "both or neither");
    let unlimited = with("/linux/resources", json!({"cpu": {"quota": -1}, "memory": {"limit": -1}})).unwrap();
    assert_eq!((unlimited.resources.cpu_quota, unlimited.resources.memory), (None, Some(-1)));
    assert_eq!(with("/linux/resources", json!({"memory": {"limit": 0}})).unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(with("/process/env", json!(["NOEQUALS"])).unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(with("/process/capabilities", json!("CAP_X")).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn p_193_the_callers_keys_decide_the_role() {
    let member = |pod: &str| Role::Member { pod: pod.into() };
    let cases: [(&[(&str, &str)], Role); 7] = [
        (&[], Role::Single),
        (&[("io.kubernetes.cri.container-type", "sandbox")], Role::Sandbox),
        (&[("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", "s")], member("s")),
        (&[("io.kubernetes.cri-o.ContainerType", "sandbox")], Role::Sandbox),
        (&[("io.kubernetes.cri-o.ContainerType", "container"), ("io.kubernetes.cri-o.SandboxID", "s")], member("s")),
        (&[("io.kubernetes.docker.type", "podsandbox")], Role::Sandbox),
        (&[("io.kubernetes.docker.type", "container"), ("io.kubernetes.sandbox.id", "s")], member("s")),
    ];
    for (pairs, expected) in cases {
        assert_eq!(classify(&annotations(pairs)).unwrap(), expected, "{pairs:?}");
    }
    // The first key that is present decides.
    let both =
        annotations(&[("io.kubernetes.cri.container-type", "sandbox"), ("io.kubernetes.docker.type", "container")]);
    assert_eq!(classify(&both).unwrap(), Role::Sandbox);
    for pairs in [
        [("io.kubernetes.cri.container-type", "podsandbox")].as_slice(),
        &[("io.kubernetes.docker.type", "sandbox")],
        &[("io.kubernetes.cri.container-type", "container")],
        &[("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", "")],
        &[("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri-o.SandboxID", "s")],
    ] {
        assert_eq!(classify(&annotations(pairs)).unwrap_err().kind(), ErrorKind::InvalidConfig, "{pairs:?}");
    }
}

#[test]
fn p_098_seccomp_stays_for_a_guest_that_applies_it() {
    let config = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}, "mounts": []});
    let paths = GuestPaths { rootfs: "/r".into(), seccomp: true, ..GuestPaths::default() };
    let kept = guest_config(config.clone(), &paths).unwrap();
    assert_eq!(kept["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    let removed = guest_config(config, &GuestPaths::default()).unwrap();
    assert!(removed["linux"].get("seccomp").is_none());
    assert!(guest_config(json!([]), &paths).is_err());
}

#[test]
fn p_166_only_the_pod_says_where_the_guests_hooks_are() {
    let config = json!({"annotations": {"dev.hutch.guest.hooks": "/of/the/container", "a": "b"}});
    let paths = GuestPaths { guest_hooks: Some("/hooks".into()), ..GuestPaths::default() };
    let guest = |paths: &GuestPaths| guest_config(config.clone(), paths).unwrap()["annotations"].clone();
    assert_eq!(guest(&paths), json!({"dev.hutch.guest.hooks": "/hooks", "a": "b"}));
    assert_eq!(guest(&GuestPaths::default()), json!({"a": "b"}));
}

#[test]
fn p_098_the_shm_of_the_guest_has_the_size_of_the_hosts() {
    let config = json!({"mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/x", "options": ["rbind"]}]});
    assert_eq!(shm_source(&config), Some("/x"));
    let paths = GuestPaths { shm_bytes: Some(12345), ..GuestPaths::default() };
    let guest = guest_config(config, &paths).unwrap();
    assert!(guest["mounts"][0]["options"].to_string().contains("size=12345"), "{guest}");
}

#[test]
fn a_derived_configuration_has_what_a_program_expects() {
    let config = crate::spec::ContainerConfig {
        id: "c".into(),
        rootfs: "/r".into(),
        command: crate::spec::Command {
            args: vec!["x".into()],
            user: "1000:100".into(),
            ..crate::spec::Command::default()
        },
        mounts: vec![crate::spec::MountSpec {
            source: "tmpfs".into(),
            destination: "/dev/shm".into(),
            kind: "tmpfs".into(),
            options: vec!["size=1m".into()],
            ..crate::spec::MountSpec::default()
        }],
        ..crate::spec::ContainerConfig::default()
    };
    let oci = derive_config(&config, "name").unwrap();
    let mounts = oci["mounts"].as_array().unwrap();
    for destination in ["/proc", "/dev", "/dev/pts", "/sys"] {
        assert!(mounts.iter().any(|mount| mount["destination"] == destination), "{destination}");
    }
    let shm: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == "/dev/shm").collect();
    assert_eq!(shm.len(), 1, "the configured one replaces the default");
    assert_eq!(shm[0]["options"], json!(["size=1m"]));
    assert_eq!(
        (oci["process"]["user"]["uid"].as_u64(), oci["process"]["user"]["gid"].as_u64()),
        (Some(1000), Some(100))
    );
    assert!(oci["process"]["capabilities"]["bounding"].as_array().unwrap().len() > 5);
    assert!(oci["linux"]["maskedPaths"].as_array().unwrap().len() > 3);
    assert_eq!(oci["hostname"], "name");
    // The derived configuration can itself be parsed.
    OciConfig::parse(&oci.to_string()).unwrap();
}
