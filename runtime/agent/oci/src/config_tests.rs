use super::*;

fn minimal() -> Value {
    json!({"root": {"path": "/r"}, "process": {"args": ["sh"]}})
}

fn read(value: Value) -> Outcome<Config> {
    Config::read(value, "/hutch/c-x")
}

#[test]
fn ids_are_file_names() {
    for good in ["a", "web-1", "...", "A_b+c.d", &"x".repeat(192)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "/", "a b", "\n", "é", &"x".repeat(193)] {
        assert_eq!(check_id(bad).unwrap_err().kind, ErrorKind::Invalid, "{bad:?}");
    }
}

#[test]
fn absent_sections_are_defaults_or_errors() {
    let config = read(minimal()).unwrap();
    assert_eq!((config.cwd.as_str(), config.rootfs.as_str(), config.terminal), ("/", "/r", false));
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["linux"]["cgroupsPath"], "/hutch/c-x");
    for (pointer, value) in [
        ("/root", Value::Null),
        ("/root/path", json!("relative")),
        ("/root/path", json!(7)),
        ("/process", json!([])),
        ("/process/args", json!([])),
        ("/process/args", json!([1])),
        ("/process/args", json!("sh")),
    ] {
        let mut broken = minimal();
        *broken.pointer_mut(pointer).unwrap() = value;
        assert_eq!(read(broken).unwrap_err().kind, ErrorKind::Invalid, "{pointer}");
    }
    for odd in [json!(null), json!([]), json!("text"), json!({}), json!({"process": {"args": ["sh"]}})] {
        assert_eq!(read(odd).unwrap_err().kind, ErrorKind::Invalid);
    }
    let mut relative = minimal();
    relative["process"]["cwd"] = json!("tmp");
    assert_eq!(read(relative).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn what_the_host_decides_is_removed() {
    let mut value = minimal();
    value["linux"] =
        json!({"resources": {"devices": [{}], "pids": {"limit": 3}}, "cgroupsPath": "/host", "mountLabel": "x"});
    value["hooks"] = json!({"prestart": [{"path": "/h"}], "startContainer": [{"path": "/g"}]});
    value["process"]["apparmorProfile"] = json!("docker-default");
    let json: Value = serde_json::from_str(&read(value).unwrap().to_json()).unwrap();
    assert_eq!(json["linux"], json!({"resources": {"pids": {"limit": 3}}, "cgroupsPath": "/hutch/c-x"}));
    assert_eq!(json["hooks"], json!({"startContainer": [{"path": "/g"}]}));
    assert!(json["process"].get("apparmorProfile").is_none());
}

#[test]
fn a_seccomp_profile_is_not_dropped_silently() {
    let mut value = minimal();
    value["linux"] = json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}});
    assert_eq!(read(value).unwrap_err().kind, ErrorKind::Unsupported);
}

#[test]
fn names_come_from_annotations() {
    let mut value = minimal();
    value["annotations"] = json!({USER_KEY: "bob:users", GROUPS_KEY: "audio,29,"});
    let mut config = read(value).unwrap();
    assert_eq!(config.user, Some(("bob:users".into(), vec!["audio".into(), "29".into()])));
    config.set_identity(&Identity { uid: 5, gid: 6, groups: vec![6, 29], home: "/home/bob".into() }, true);
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [6, 29]}));
    assert_eq!(json["process"]["env"], json!(["HOME=/home/bob"]));
    assert_eq!(read(minimal()).unwrap().user, None);
}

#[test]
fn paths_on_mounts_are_recognised() {
    let mut value = minimal();
    value["mounts"] = json!([{"destination": "/data/"}, {"destination": "/proc"}, {"no": 1}, 3]);
    let config = read(value).unwrap();
    assert!(config.is_on_mount("/data") && config.is_on_mount("/data/x") && config.is_on_mount("/proc/1"));
    assert!(!config.is_on_mount("/database") && !config.is_on_mount("/"));
}

#[test]
fn files_are_mounted_read_only_after_the_containers_own_mounts() {
    let mut value = minimal();
    value["mounts"] = json!([{"destination": "/proc", "type": "proc"}]);
    for (value, own) in [(value, 1), (minimal(), 0)] {
        let mut config = read(value).unwrap();
        config.mount_file("/run/r", "/etc/resolv.conf");
        assert!(config.is_on_mount("/etc/resolv.conf") && !config.is_on_mount("/etc"));
        let json: Value = serde_json::from_str(&config.to_json()).unwrap();
        let mounts = json["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), own + 1);
        assert_eq!((&mounts[own]["source"], &mounts[own]["type"]), (&json!("/run/r"), &json!("bind")));
        assert!(mounts[own]["options"].as_array().unwrap().contains(&json!("ro")));
    }
}

#[test]
fn processes_inherit_capabilities_and_no_new_privileges() {
    let mut value = minimal();
    value["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
    value["process"]["noNewPrivileges"] = json!(true);
    let heritage = read(value).unwrap().heritage();
    let identity = Identity { uid: 0, gid: 0, groups: vec![0], home: "/root".into() };
    let spec = ProcessSpec { args: vec!["id".into()], ..ProcessSpec::default() };
    let process = heritage.process(&spec, &identity).unwrap();
    assert_eq!(process["capabilities"]["bounding"][0], "CAP_KILL");
    assert_eq!((process["noNewPrivileges"].as_bool(), process["cwd"].as_str()), (Some(true), Some("/")));
    for bad in [
        ProcessSpec::default(),
        ProcessSpec { cwd: "tmp".into(), ..spec.clone() },
        ProcessSpec { env: vec![("A=B".into(), String::new())], ..spec.clone() },
        ProcessSpec { args: vec!["a\0b".into()], ..spec.clone() },
    ] {
        assert_eq!(heritage.process(&bad, &identity).unwrap_err().kind, ErrorKind::Invalid, "{bad:?}");
    }
}
