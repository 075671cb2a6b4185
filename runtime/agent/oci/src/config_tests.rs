use super::*;
use hutch_agent_proto::{CapabilitySets, RemoteErrorKind};

fn minimal() -> Value {
    json!({"root": {"path": "/r"}, "process": {"args": ["sh"]}})
}

fn read(value: Value) -> Outcome<Config> {
    Config::read(value, "x", "/hutch/c-x")
}

#[test]
fn ids_are_file_names() {
    for good in ["a", "web-1", "...", "A_b+c.d", &"x".repeat(192)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "/", "a b", "\n", "é", &"x".repeat(193)] {
        assert_eq!(check_id(bad).unwrap_err().kind, RemoteErrorKind::Invalid, "{bad:?}");
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
        assert_eq!(read(broken).unwrap_err().kind, RemoteErrorKind::Invalid, "{pointer}");
    }
    for odd in [json!(null), json!([]), json!("text"), json!({}), json!({"process": {"args": ["sh"]}})] {
        assert_eq!(read(odd).unwrap_err().kind, RemoteErrorKind::Invalid);
    }
    for user in [json!(7), json!("root"), json!([])] {
        let mut odd = minimal();
        odd["process"]["user"] = user;
        assert_eq!(read(odd).unwrap_err().kind, RemoteErrorKind::Invalid, "set_identity would index it");
    }
    let mut relative = minimal();
    relative["process"]["cwd"] = json!("tmp");
    assert_eq!(read(relative).unwrap_err().kind, RemoteErrorKind::Invalid);
}

#[test]
fn settings_for_the_host_are_removed() {
    let mut value = minimal();
    value["linux"] =
        json!({"resources": {"devices": [{}], "pids": {"limit": 3}}, "cgroupsPath": "/host", "mountLabel": "x"});
    value["hooks"] = json!({"prestart": [{"path": "/h"}], "startContainer": [{"path": "/g"}]});
    value["process"]["apparmorProfile"] = json!("docker-default");
    let config = read(value).unwrap();
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["linux"], json!({"resources": {"pids": {"limit": 3}}, "cgroupsPath": "/hutch/c-x"}));
    // libcontainer gets no hooks: the agent's own code runs those inside the container.
    assert!(json.get("hooks").is_none());
    assert_eq!(config.hooks.iter().map(|hook| hook.path.as_str()).collect::<Vec<_>>(), ["/g"]);
    assert!(json["process"].get("apparmorProfile").is_none());
}

#[test]
fn p_098_a_seccomp_profile_is_taken_out_and_makes_room_for_loading_it() {
    let with = |no_new_privileges: Value, seccomp: Value| {
        let mut value = minimal();
        value["process"]["capabilities"] =
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
        value["process"]["noNewPrivileges"] = no_new_privileges;
        value["linux"] = json!({"seccomp": seccomp});
        read(value)
    };
    let capabilities = |config: &Config| {
        let json: Value = serde_json::from_str(&config.to_json()).unwrap();
        assert!(json["linux"].get("seccomp").is_none());
        json["process"]["capabilities"].clone()
    };
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO"});
    let (narrow, wide) = (json!(["CAP_KILL"]), json!(["CAP_KILL", "CAP_SYS_ADMIN"]));
    for (no_new_privileges, seccomp, expected) in [
        (json!(false), &profile, &wide),
        (json!(null), &profile, &wide),
        (json!(true), &profile, &narrow),
        (json!(false), &json!(null), &narrow),
    ] {
        let config = with(no_new_privileges, seccomp.clone()).unwrap();
        assert_eq!(config.seccomp.is_some(), seccomp.is_object());
        let sets =
            json!({"bounding": narrow, "permitted": expected, "effective": expected, "inheritable": [], "ambient": []});
        assert_eq!(capabilities(&config), sets);
        // Processes that enter later get theirs in the same way, also if they set noNewPrivileges themselves.
        let spec = ProcessSpec { args: vec!["x".into()], ..ProcessSpec::default() };
        let identity = Identity { uid: 0, gid: 0, groups: vec![], home: "/".into() };
        let entering = config.exec_template().process(&spec, &identity).unwrap();
        assert_eq!(&entering["capabilities"]["permitted"], expected);
        let spec = ProcessSpec { no_new_privileges: true, ..spec };
        if expected == &narrow {
            let entering = config.exec_template().process(&spec, &identity).unwrap();
            assert_eq!(&entering["capabilities"]["permitted"], &narrow);
        }
    }
    for bad in [json!({}), json!([]), json!({"defaultAction": "SCMP_ACT_NO"}), json!("text")] {
        let error = with(json!(false), bad.clone()).unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::Invalid, "{bad}");
        assert!(error.message.contains("linux.seccomp"), "{error:?}");
    }
}

#[test]
fn p_166_hooks_inside_the_container_are_checked() {
    let with = |hooks: Value| {
        let mut value = minimal();
        value["hooks"] = hooks;
        value["annotations"] = json!({HOOKS_KEY: "/hooks", "a": "b"});
        read(value)
    };
    let hook = json!({"path": "/g", "args": ["g", "-x"], "env": ["A=b"], "timeout": 3});
    let config = with(json!({"startContainer": [hook]})).unwrap();
    assert_eq!((config.hooks[0].timeout, config.hooks[0].args.len()), (Some(3), 2));
    assert_eq!((config.guest_hooks.as_deref(), config.state.id.as_str()), (Some("/hooks"), "x"));
    assert_eq!(config.state.annotations["a"], "b");
    assert!(with(json!(null)).unwrap().hooks.is_empty());
    for bad in [json!([{"path": "relative"}]), json!([{"path": "/x", "args": [1]}]), json!({}), json!([3])] {
        assert_eq!(with(json!({"startContainer": bad})).unwrap_err().kind, RemoteErrorKind::Invalid, "{bad}");
    }
    let mut relative = minimal();
    relative["annotations"] = json!({HOOKS_KEY: "hooks"});
    assert_eq!(read(relative).unwrap_err().kind, RemoteErrorKind::Invalid);
}

#[test]
fn p_124_annotations_do_not_set_the_user() {
    let mut value = minimal();
    value["process"]["user"] = json!({"uid": 33, "gid": 33});
    value["annotations"] = json!({"dev.hutch.process.user": "0:0", "dev.hutch.process.groups": "0"});
    let mut config = read(value).unwrap();
    assert_eq!(config.uid, 33);
    let identity = Identity { uid: 5, gid: 6, groups: vec![6, 29], home: "/home/bob".into() };
    config.set_identity(&identity, false);
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["process"]["user"], json!({"uid": 33, "gid": 33}));
    assert_eq!(json["process"]["env"], json!(["HOME=/home/bob"]));
    config.set_identity(&identity, true);
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [6, 29]}));
}

#[test]
fn capabilities_that_are_not_named_are_not_had() {
    let none = json!({"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []});
    let mut one = none.clone();
    one["bounding"] = json!(["CAP_KILL"]);
    for (given, expected) in
        [(Value::Null, &none), (json!({}), &none), (json!({"bounding": ["CAP_KILL"], "permitted": null}), &one)]
    {
        let mut value = minimal();
        value["process"]["capabilities"] = given.clone();
        let config = read(value).unwrap();
        let json: Value = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(&json["process"]["capabilities"], expected, "{given}");
        // Processes that enter later, with and without sets of their own.
        let spec = ProcessSpec { args: vec!["x".into()], ..ProcessSpec::default() };
        let identity = Identity { uid: 0, gid: 0, groups: vec![], home: "/".into() };
        assert_eq!(&config.exec_template().process(&spec, &identity).unwrap()["capabilities"], expected);
        let sets = CapabilitySets { permitted: vec!["CAP_CHOWN".into()], ..CapabilitySets::default() };
        let spec = ProcessSpec { capabilities: Some(sets), ..spec };
        let entering = config.exec_template().process(&spec, &identity).unwrap();
        assert_eq!(entering["capabilities"]["permitted"], json!(["CAP_CHOWN"]));
        assert_eq!(entering["capabilities"]["bounding"], json!([]));
    }
    let json: Value = serde_json::from_str(&read(minimal()).unwrap().to_json()).unwrap();
    assert_eq!(json["process"]["capabilities"], none, "absent");
    for bad in [json!(["CAP_KILL"]), json!("CAP_KILL"), json!({"all": []})] {
        let mut value = minimal();
        value["process"]["capabilities"] = bad.clone();
        assert_eq!(read(value).unwrap_err().kind, RemoteErrorKind::Invalid, "{bad}");
    }
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
    let exec_template = read(value).unwrap().exec_template();
    let identity = Identity { uid: 0, gid: 0, groups: vec![0], home: "/root".into() };
    let spec = ProcessSpec { args: vec!["id".into()], ..ProcessSpec::default() };
    let process = exec_template.process(&spec, &identity).unwrap();
    assert_eq!(process["capabilities"]["bounding"][0], "CAP_KILL");
    assert_eq!((process["noNewPrivileges"].as_bool(), process["cwd"].as_str()), (Some(true), Some("/")));
    for bad in [
        ProcessSpec::default(),
        ProcessSpec { cwd: "tmp".into(), ..spec.clone() },
        ProcessSpec { env: vec![("A=B".into(), String::new())], ..spec.clone() },
        ProcessSpec { args: vec!["a\0b".into()], ..spec.clone() },
    ] {
        assert_eq!(exec_template.process(&bad, &identity).unwrap_err().kind, RemoteErrorKind::Invalid, "{bad:?}");
    }
}
