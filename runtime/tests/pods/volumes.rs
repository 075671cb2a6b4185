//! Named volumes, by the fakes.

use hutch_runtime::spec::{ContainerConfig, MountSpec};
use hutch_runtime::{ErrorKind, StopOptions};
use hutch_runtime_fakes::{Failing, FakeHost};

use crate::support::{assert_clean, error, finish, kind, new, running};

const FORCE: StopOptions = StopOptions::forced();

fn with_volume(host: &FakeHost, id: &str, volume: &str, options: &[&str]) -> ContainerConfig {
    let mount = MountSpec {
        kind: "volume".into(),
        source: volume.into(),
        destination: "/data".into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..MountSpec::default()
    };
    ContainerConfig { mounts: vec![mount], ..host.container(id) }
}

#[test]
fn a_volume_is_made_at_its_first_use_and_outlives_the_pod() {
    let (host, runtime) = running(&[]);
    assert_eq!(runtime.list_volumes().unwrap(), []);
    runtime.create_container("p", with_volume(&host, "a", "data", &[])).unwrap();
    let path = host.dir().join("volumes/data");
    std::fs::write(path.join("file"), "kept").unwrap();
    runtime.create_container("p", with_volume(&host, "b", "data", &["ro"])).unwrap();
    let record = std::fs::read_to_string(host.dir().join("run/p/b/mounts.json")).unwrap();
    assert!(record.contains("volumes/data"), "{record}");
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let bind = record["data"].as_array().unwrap().iter().find(|bind| bind["destination"] == "/data").unwrap();
    assert_eq!(bind["read_only"], true, "the host enforces it");
    host.guest("p", |guest| {
        let spec = guest.spec("a").unwrap();
        let mount = spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/data").unwrap().clone();
        assert_eq!(mount["type"], "bind");
        assert!(mount["source"].as_str().unwrap().starts_with("/run/hutch/shared/a-"), "{mount}");
    });
    let status = runtime.status_volume("data").unwrap();
    assert_eq!((status.path, status.pods), (path.clone(), vec!["p".to_owned()]));
    finish(&host, &runtime);
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "kept");
    assert_eq!(runtime.list_volumes().unwrap()[0].pods, [""; 0]);
    runtime.remove_volume("data").unwrap();
    assert!(!path.exists());
}

#[test]
fn a_volume_that_a_recorded_pod_uses_is_not_removed() {
    let (host, runtime) = running(&[]);
    let refused = || {
        let refused = error(runtime.remove_volume("data"));
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        assert!(refused.to_string().contains("volume data") && refused.to_string().contains("pod p"), "{refused}");
    };
    runtime.create_container("p", with_volume(&host, "a", "data", &[])).unwrap();
    refused();
    runtime.stop_pod("p", FORCE).unwrap();
    refused();
    host.host_restart();
    refused();
    // Damaged records may name it.
    let config = host.dir().join("config/p/config.json");
    let good = std::fs::read(&config).unwrap();
    std::fs::write(&config, "{").unwrap();
    assert_eq!(kind(runtime.remove_volume("data")), ErrorKind::Store);
    assert_eq!(runtime.list_volumes().unwrap().len(), 1, "but a list is a list");
    std::fs::write(&config, good).unwrap();
    runtime.start_pod("p").unwrap();
    runtime.delete_container("p", "a").unwrap_err();
    runtime.stop_container("p", "a", FORCE).unwrap();
    runtime.delete_container("p", "a").unwrap();
    runtime.remove_volume("data").unwrap();
    finish(&host, &runtime);
}

#[test]
fn a_creation_that_failed_uses_no_volume() {
    let (host, runtime) = new();
    let mut pod = host.pod("p", &[]);
    pod.containers = vec![with_volume(&host, "a", "data", &[])];
    host.fail("agent.create-container", Failing::Refuses);
    assert_eq!(kind(runtime.create_pod(pod)), ErrorKind::Backend);
    assert_clean(&host);
    assert_eq!(runtime.status_volume("data").unwrap().pods, [""; 0]);
    runtime.remove_volume("data").unwrap();
}

#[test]
fn volumes_are_created_listed_and_removed_by_name() {
    let (_world, runtime) = new();
    for name in ["b", "a", "b"] {
        assert!(runtime.create_volume(name).unwrap().path.is_dir());
    }
    let names: Vec<_> = runtime.list_volumes().unwrap().into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["a", "b"]);
    for bad in ["", "..", ".x", "a/b"] {
        assert_eq!(kind(runtime.create_volume(bad)), ErrorKind::InvalidConfig, "{bad:?}");
        assert_eq!(kind(runtime.remove_volume(bad)), ErrorKind::InvalidConfig, "{bad:?}");
    }
    runtime.remove_volume("a").unwrap();
    let missing = error(runtime.remove_volume("a"));
    assert!(missing.is_not_found() && missing.to_string().contains("volume a"), "{missing}");
    assert_eq!(kind(runtime.status_volume("a")), ErrorKind::NoSuchVolume);
}

/// P-101 in short: an OCI configuration as an annotation may name one, too.
#[test]
fn a_volume_in_an_oci_configuration_is_resolved() {
    let (host, runtime) = running(&[]);
    let mut config = with_volume(&host, "a", "data", &[]);
    let oci = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["serve"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/data", "type": "volume", "source": "data"}],
    });
    config.annotations.insert(hutch_runtime::spec::oci::CONFIG_KEY.into(), oci.to_string());
    runtime.create_container("p", config).unwrap();
    assert!(host.dir().join("volumes/data").is_dir());
    assert_eq!(host.mounts().len(), 2);
    finish(&host, &runtime);
}
