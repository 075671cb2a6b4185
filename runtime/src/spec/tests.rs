//! Tests of configurations, with numbers of the contract.

use std::path::PathBuf;

use super::*;
use crate::error::ErrorKind;

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

fn hypervisor() -> HypervisorConfig {
    HypervisorConfig { kernel: "/k".into(), initrd: Some("/i".into()), ..HypervisorConfig::default() }
}

fn pod() -> PodConfig {
    PodConfig { id: "p".into(), hypervisor: hypervisor(), ..PodConfig::default() }
}

#[test]
fn p_005_unknown_type_names_are_refused_never_replaced() {
    for field in ["hypervisor", "agent", "proxy", "shim", "network"] {
        let text = format!(r#"{{"id":"p","{field}":{{"type":"something"}}}}"#);
        assert_eq!(kind(from_json::<PodConfig>(&text)), ErrorKind::InvalidConfig, "{field}");
    }
    assert_eq!(kind("qemu".parse::<HypervisorKind>()), ErrorKind::InvalidConfig);
    assert_eq!(kind("".parse::<AgentKind>()), ErrorKind::InvalidConfig);
    assert_eq!(kind("x".parse::<ProxyKind>()), ErrorKind::InvalidConfig);
    assert_eq!(kind("x".parse::<ShimKind>()), ErrorKind::InvalidConfig);
    assert_eq!(kind("macvtap".parse::<NetworkKind>()), ErrorKind::InvalidConfig);
    assert_eq!("nat".parse::<NetworkKind>().unwrap(), NetworkKind::Nat);
}

#[test]
fn configurations_are_read_from_json_and_toml_alike() {
    let json = r#"{
        "id": "web", "hostname": "web", "annotations": {"org.example.a": "b"},
        "hypervisor": {"kernel": "/k", "initrd": "/i", "vcpus": 2, "kernel_parameters": [{"key": "quiet"}]},
        "network": {"type": "nat", "publish": [{"host_port": 8080, "guest_port": 80}]},
        "containers": [{"id": "c", "rootfs": "/r", "command": {"args": ["x"], "env": [{"name": "A", "value": ""}]}}]
    }"#;
    let toml = r#"
        id = "web"
        hostname = "web"
        [annotations]
        "org.example.a" = "b"
        [hypervisor]
        kernel = "/k"
        initrd = "/i"
        vcpus = 2
        kernel_parameters = [{ key = "quiet" }]
        [network]
        type = "nat"
        publish = [{ host_port = 8080, guest_port = 80 }]
        [[containers]]
        id = "c"
        rootfs = "/r"
        command = { args = ["x"], env = [{ name = "A", value = "" }] }
    "#;
    let config: PodConfig = from_json(json).unwrap();
    assert_eq!(from_toml::<PodConfig>(toml).unwrap(), config);
    let completed = config.complete().unwrap();
    let text = serde_json::to_string(&completed).unwrap();
    assert_eq!(from_json::<PodConfig>(&text).unwrap(), completed);
    assert_eq!(kind(from_json::<PodConfig>(r#"{"id":"p","hostnam":"x"}"#)), ErrorKind::InvalidConfig, "misspelt");
}

#[test]
fn configurations_are_read_from_files_by_their_ending() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), "id = \"c\"\nrootfs = \"/r\"").unwrap();
    std::fs::write(dir.path().join("c.json"), r#"{"id":"c","rootfs":"/r"}"#).unwrap();
    let toml: ContainerConfig = from_file(&dir.path().join("c.toml")).unwrap();
    assert_eq!(toml, from_file(&dir.path().join("c.json")).unwrap());
    assert_eq!(kind(from_file::<ContainerConfig>(&PathBuf::new())), ErrorKind::NeedFile);
    let missing = from_file::<ContainerConfig>(&dir.path().join("x")).unwrap_err();
    assert!(missing.to_string().contains("/x"), "{missing}");
}

#[test]
fn the_schemas_describe_the_types() {
    let schema = pod_schema();
    for field in ["id", "hostname", "hooks", "hypervisor", "network", "containers", "annotations", "volumes"] {
        assert!(schema["properties"].get(field).is_some(), "{field}");
        let described = &schema["properties"][field];
        assert!(described.get("description").is_some() || described.get("$ref").is_some(), "{field}: {described}");
    }
    assert!(container_schema()["properties"].get("rootfs").is_some());
}

#[test]
fn p_124_a_user_is_uid_or_uid_and_gid_and_stays_text() {
    let command = |user: &str, group: &str| Command {
        args: vec!["x".into()],
        user: user.into(),
        primary_group: group.into(),
        ..Command::default()
    };
    for (user, group, expected) in [
        ("", "", ""),
        ("0", "", "0"),
        ("1000:1000", "", "1000:1000"),
        ("www", "", "www"),
        ("www:web", "", "www:web"),
        ("1000:1000", "7", "1000:7"),
        ("1000", "staff", "1000:staff"),
        ("", "7", "0:7"),
    ] {
        assert_eq!(command(user, group).guest_user().unwrap(), expected, "{user:?} {group:?}");
    }
    assert_eq!(kind(command("1:2:3", "").guest_user()), ErrorKind::InvalidConfig);
    assert_eq!(kind(command("1:2:3", "").validate()), ErrorKind::InvalidConfig);
}

#[test]
fn p_125_environment_entries_are_split_at_the_first_equals_sign() {
    let env = parse_env(&["A=b", "C=d=e=f", "EMPTY=", "SP= x "]).unwrap();
    let pairs: Vec<(&str, &str)> = env.iter().map(|var| (var.name.as_str(), var.value.as_str())).collect();
    assert_eq!(pairs, [("A", "b"), ("C", "d=e=f"), ("EMPTY", ""), ("SP", " x ")]);
    for bad in ["NOEQUALS", "=value", "", "N\0=x"] {
        assert_eq!(kind(parse_env(&[bad])), ErrorKind::InvalidConfig, "{bad:?}");
    }
    let with = |name: &str| Command {
        args: vec!["x".into()],
        env: vec![EnvVar { name: name.into(), value: "v".into() }],
        ..Command::default()
    };
    assert_eq!(kind(with("").validate()), ErrorKind::InvalidConfig);
    assert_eq!(kind(with("A=B").validate()), ErrorKind::InvalidConfig);
}

#[test]
fn capabilities_come_as_an_object_or_as_one_list() {
    let of = |text: &str| Capabilities::from_value(&serde_json::from_str(text).unwrap());
    let flat = of(r#"["CAP_KILL"]"#).unwrap();
    assert_eq!(
        (flat.ambient.as_slice(), flat.bounding.as_slice()),
        (["CAP_KILL".into()].as_slice(), flat.effective.as_slice())
    );
    let object = of(r#"{"bounding":["CAP_KILL"]}"#).unwrap();
    assert!(object.effective.is_empty() && object.bounding.len() == 1);
    for bad in ["1", "\"CAP_KILL\"", "[1]", r#"{"bounding":"CAP_KILL"}"#, r#"{"bound":[]}"#, r#"["kill"]"#] {
        assert_eq!(kind(of(bad)), ErrorKind::InvalidConfig, "{bad}");
    }
}

#[test]
fn p_180_a_hostname_is_cut_at_64_bytes_between_characters() {
    let name = |hostname: String| PodConfig { hostname, ..pod() }.guest_hostname().len();
    assert_eq!(name("a".repeat(64)), 64);
    assert_eq!(name("a".repeat(65)), 64);
    assert_eq!(name(format!("{}é", "a".repeat(63))), 63, "no half characters");
    assert_eq!(name(String::new()), 0);
}

#[test]
fn p_181_a_machine_needs_a_kernel_and_an_image_or_an_initrd() {
    let cases = [
        HypervisorConfig::default(),
        HypervisorConfig { kernel: "/k".into(), ..HypervisorConfig::default() },
        HypervisorConfig { initrd: Some("/i".into()), ..HypervisorConfig::default() },
        HypervisorConfig { image: Some("/d".into()), ..hypervisor() },
        HypervisorConfig { kernel: "relative".into(), ..hypervisor() },
        HypervisorConfig { memory_mib: 1, ..hypervisor() },
        HypervisorConfig { vcpus: 9, max_vcpus: 4, ..hypervisor() },
        HypervisorConfig { vcpus: 255, ..hypervisor() },
        HypervisorConfig { max_memory_mib: 1024, ..hypervisor() },
        HypervisorConfig { max_memory_mib: 4096, huge_pages: true, ..hypervisor() },
        HypervisorConfig { max_memory_mib: 4096, memory_prealloc: true, ..hypervisor() },
        HypervisorConfig { vcpus: 255, max_vcpus: 1000, ..hypervisor() },
    ];
    for case in cases {
        assert_eq!(kind(case.clone().complete()), ErrorKind::InvalidConfig, "{case:?}");
    }
    let complete = hypervisor().complete().unwrap();
    assert_eq!((complete.vcpus, complete.memory_mib, complete.bridges), (1, 2048, 1));
    assert_eq!(complete.max_vcpus, 254);
    assert_eq!(complete.clone().complete().unwrap(), complete, "nothing changes twice");
    let sized = PodConfig { resources: VmResources { memory_mib: 300 }, ..pod() }.complete().unwrap();
    assert_eq!(sized.hypervisor.memory_mib, 300);
    let mut growing = PodConfig { resources: VmResources { memory_mib: 300 }, ..pod() };
    growing.hypervisor.max_memory_mib = 1024;
    assert_eq!(growing.complete().unwrap().hypervisor.max_memory_mib, 1024, "what counts is the memory at boot");
}

/// A setting without effect is refused, not ignored. The no-op hypervisor takes every setting (P-186, P-190).
#[test]
fn what_the_hypervisor_does_not_support_is_refused() {
    let firmware = HypervisorConfig { firmware: Some("/f".into()), ..hypervisor() };
    let scsi = HypervisorConfig { block_driver: BlockDriver::VirtioScsi, ..hypervisor() };
    for (case, field) in [(firmware, "hypervisor.firmware /f"), (scsi, "hypervisor.block_driver virtio-scsi")] {
        let refused = case.clone().complete().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        assert!(refused.to_string().contains(field), "{refused}");
        HypervisorConfig { kind: HypervisorKind::None, ..case }.complete().unwrap();
    }
    HypervisorConfig { mlock: true, ..hypervisor() }.complete().unwrap();
}

#[test]
fn p_166_the_directory_of_guest_hooks_is_a_path_in_the_guest() {
    let with = |path: &str| {
        let agent = AgentConfig { guest_hooks: Some(path.into()), ..AgentConfig::default() };
        PodConfig { agent, ..pod() }.complete()
    };
    with("/run/hutch/volumes/hooks").unwrap();
    for bad in ["hooks", "", "/a\0b"] {
        let refused = with(bad).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        assert!(refused.to_string().contains("agent.guest_hooks"), "{refused}");
    }
    let kata: PodConfig = from_json(r#"{"agent": {"guest_hook_path": "/hooks"}}"#).unwrap();
    assert_eq!(kata.agent.guest_hooks, Some("/hooks".into()));
}

#[test]
fn p_183_vcpus_are_the_sum_rounded_up_once() {
    let limits = |quota: i64, period: u64| Resources {
        cpu_quota: Some(quota),
        cpu_period: Some(period),
        ..Resources::default()
    };
    let half = limits(50_000, 100_000);
    assert_eq!(vcpus_for_all([&half]), 1);
    assert_eq!(vcpus_for_all([&half, &half]), 1);
    assert_eq!(vcpus_for_all([&half, &half, &half]), 2);
    assert_eq!(vcpus_for_all([&limits(-1, 100_000)]), 0);
    assert_eq!(vcpus_for_all([&limits(50_000, 0)]), 0);
    assert_eq!(vcpus_for_all([&Resources::default()]), 0);
    assert_eq!(vcpus_for_all([&limits(i64::MAX, 1)]), u32::MAX, "no wrap");
    let many = limits(i64::MAX, 1);
    assert_eq!(vcpus_for_all([&many, &many]), u32::MAX);
}

#[test]
fn p_184_memory_limits_round_up_to_whole_mib() {
    for (bytes, expected) in [(1, Some(1)), (1 << 20, Some(1)), ((1 << 20) + 1, Some(2)), (-1, None)] {
        assert_eq!(memory_mib(bytes).unwrap(), expected, "{bytes}");
    }
    assert_eq!(memory_mib(i64::MAX).unwrap(), Some(1 << 43));
    for bytes in [0, -2, i64::MIN] {
        assert_eq!(kind(memory_mib(bytes)), ErrorKind::InvalidConfig, "{bytes}");
    }
}

#[test]
fn p_185_a_block_index_is_the_lowest_free_one() {
    let mut indices = BlockIndices::default();
    assert_eq!([indices.take(), indices.take(), indices.take()], [0, 1, 2]);
    indices.free(1);
    indices.free(1);
    indices.free(77);
    assert_eq!([indices.take(), indices.take()], [1, 3]);
    assert_eq!((indices.len(), indices.is_empty()), (4, false));
}

#[test]
fn p_187_device_ids_stay_unique_when_shortened() {
    let prefix = "a".repeat(60);
    let one = device_id("drive", &format!("{prefix}1"));
    let two = device_id("drive", &format!("{prefix}2"));
    assert_ne!(one, two);
    assert!(one.len() <= 20 && one.starts_with("drive-"), "{one}");
    assert_eq!(one, device_id("drive", &format!("{prefix}1")), "and stay the same");
    assert!(device_id(&"long".repeat(10), "x").ends_with('-'));
}

#[test]
fn p_188_a_bridge_has_thirty_slots_that_survive_a_reload() {
    let mut bridge = Bridge::new("bridge-0");
    for number in 0..super::device::BRIDGE_SLOTS {
        assert_eq!(bridge.add(&format!("d{number}")).unwrap(), number + 1);
    }
    assert_eq!(kind(bridge.add("over")), ErrorKind::InvalidConfig);
    assert_eq!(bridge.remove("d4").unwrap(), 5);
    assert_eq!(kind(bridge.remove("d4")), ErrorKind::InvalidConfig);
    let mut again: Bridge = serde_json::from_str(&serde_json::to_string(&bridge).unwrap()).unwrap();
    assert_eq!(again, bridge);
    assert_eq!(again.add("new").unwrap(), 5);
    assert_eq!(kind(again.add("d9")), ErrorKind::InvalidConfig, "no device twice");
}

#[test]
fn volumes_of_a_pod_are_checked() {
    let with = |tag: &str, path: &str| PodConfig {
        volumes: vec![Volume {
            tag: tag.into(),
            path: path.into(),
            read_only: false,
            cache: CacheMode::Auto,
            suid: SetIds::Strip,
            trusted: false,
        }],
        ..pod()
    };
    with("data", "/srv").complete().unwrap();
    for (tag, path) in [("", "/x"), ("hutchShared", "/x"), ("data", "x"), (&*"t".repeat(37), "/x")] {
        assert_eq!(kind(with(tag, path).complete()), ErrorKind::InvalidConfig, "{tag:?} {path:?}");
    }
    let mut twice = with("data", "/srv");
    twice.volumes.push(twice.volumes[0].clone());
    assert_eq!(kind(twice.complete()), ErrorKind::InvalidConfig);
}

#[test]
fn a_volume_of_the_host_strips_power_and_caches_for_a_second_unless_it_says_otherwise() {
    let read = |text: &str| from_toml::<PodConfig>(&format!("id = 'p'\n[[volumes]]\ntag = 't'\npath = '/x'\n{text}"));
    let policy = |text: &str| {
        let volume = read(text).unwrap().volumes.remove(0);
        (volume.cache, volume.suid, volume.trusted)
    };
    assert_eq!(policy(""), (CacheMode::Auto, SetIds::Strip, false));
    assert_eq!(policy("cache = 'none'\nsuid = 'keep'\ntrusted = true"), (CacheMode::None, SetIds::Keep, true));
    assert_eq!(policy("cache = 'always'").0, CacheMode::Always);
    for wrong in ["cache = 'some'", "suid = 'on'", "trusted = 'on'"] {
        assert_eq!(kind(read(wrong)), ErrorKind::InvalidConfig, "{wrong}");
    }
}

#[test]
fn devices_are_found_by_type_and_number() {
    let device = |kind: &str, major, minor| DeviceInfo {
        container_path: "/dev/in-container".into(),
        kind: kind.into(),
        major,
        minor,
        ..DeviceInfo::default()
    };
    let null = device("c", 1, 3).resolve().unwrap();
    assert_eq!((null.kind, null.info.host_path.as_deref()), (DeviceKind::Generic, Some("/dev/null".as_ref())));
    let unknown = device("b", 4095, 77).resolve().unwrap();
    assert_eq!((unknown.kind, unknown.info.host_path), (DeviceKind::Block, Some("/dev/in-container".into())));
    assert!(device("p", 0, 0).resolve().is_none());
    let group = DeviceInfo { host_path: Some("/dev/vfio/12".into()), ..device("c", 240, 0) };
    assert_eq!(group.resolve().unwrap().kind, DeviceKind::Vfio);
    let container = DeviceInfo { host_path: Some("/dev/vfio/vfio".into()), ..device("c", 10, 196) };
    assert_eq!(container.resolve().unwrap().kind, DeviceKind::Generic);
    assert_eq!(kind(device("x", 1, 1).validate()), ErrorKind::InvalidConfig);
    assert_eq!(
        kind(DeviceInfo { container_path: "".into(), ..device("c", 1, 1) }.validate()),
        ErrorKind::InvalidConfig
    );
}

fn sha512(text: &str) -> String {
    use sha2::{Digest, Sha512};
    Sha512::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn p_190_annotations_override_assets_with_checked_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, "content").unwrap();
    std::fs::write(dir.path().join("empty"), "").unwrap();
    let policy =
        AssetPolicy { enabled: [Override::Kernel, Override::Image].into(), allowed_paths: vec![dir.path().into()] };
    let apply = |annotations: &[(&str, &str)]| {
        let annotations = annotations.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut config = PodConfig { annotations, ..pod() };
        policy.apply(&mut config).map(|()| config.hypervisor)
    };
    let (path, empty) = (kernel.to_str().unwrap(), dir.path().join("empty"));
    let ours = |key: &str| format!("{ANNOTATION_PREFIX}{key}");
    let good = sha512("content");
    assert_eq!(apply(&[(&ours("kernel"), path)]).unwrap().kernel, kernel);
    assert_eq!(apply(&[(&format!("{KATA_PREFIX}kernel"), path)]).unwrap().kernel, kernel);
    apply(&[(&ours("kernel"), path), (&ours("kernel_hash"), &good)]).unwrap();
    apply(&[(&ours("kernel"), path), (&ours("kernel_hash"), &good), (&ours("asset_hash_type"), "sha512")]).unwrap();
    assert_eq!(apply(&[(&ours("kernel_hash"), "abc")]).unwrap(), hypervisor(), "a hash without a path is ignored");
    let image = apply(&[(&ours("image"), path)]).unwrap();
    assert_eq!((image.image, image.initrd), (Some(kernel.clone()), None));
    let bad: [&[(&str, &str)]; 5] = [
        &[(&ours("kernel"), "relative")],
        &[(&ours("kernel"), path), (&ours("kernel_hash"), "00")],
        &[(&ours("kernel"), path), (&ours("kernel_hash"), &good), (&ours("asset_hash_type"), "sha256")],
        &[(&ours("kernel"), empty.to_str().unwrap()), (&ours("kernel_hash"), &sha512(""))],
        &[(&ours("image"), path), (&ours("initrd"), path)],
    ];
    for case in bad {
        assert_eq!(kind(apply(case)), ErrorKind::InvalidConfig, "{case:?}");
    }
}

#[test]
fn p_191_overrides_need_the_hosts_leave_and_the_error_names_the_annotation() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(&outside, "x").unwrap();
    std::fs::write(inside.join("kernel"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
    let key = format!("{ANNOTATION_PREFIX}kernel");
    let apply = |policy: &AssetPolicy, path: PathBuf| {
        let annotations = [(key.clone(), path.display().to_string())].into();
        policy.apply(&mut PodConfig { annotations, ..pod() })
    };
    let allowed = AssetPolicy { enabled: [Override::Kernel].into(), allowed_paths: vec![inside.clone()] };
    apply(&allowed, inside.join("kernel")).unwrap();
    let refused = [
        apply(&AssetPolicy::default(), inside.join("kernel")),
        apply(&AssetPolicy { enabled: [Override::Kernel].into(), ..AssetPolicy::default() }, inside.join("kernel")),
        apply(&AssetPolicy { enabled: [Override::Image].into(), ..allowed.clone() }, inside.join("kernel")),
        apply(&allowed, outside),
        apply(&allowed, inside.join("../out")),
        apply(&allowed, inside.join("link")),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        let error = result.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(&key), "{number}: {error}");
    }
}

#[test]
fn p_199_signals_have_names_with_or_without_prefix_and_numbers() {
    for (text, number) in [
        ("", 15),
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("Kill", 9),
        ("9", 9),
        ("CLD", 17),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
    ] {
        assert_eq!(parse_signal(text).unwrap(), number, "{text:?}");
    }
    for text in ["0", "-1", "32", "33", "65", "SIG", "TERMINATE", "RTMIN+31", "RTMIN-1", "1.5", " TERM"] {
        assert_eq!(kind(parse_signal(text)), ErrorKind::InvalidConfig, "{text:?}");
    }
}

#[test]
fn ports_have_a_text_form() {
    let port = |text: &str| PortForward::parse(text).unwrap();
    assert_eq!((port("8080:80").host_port, port("8080:80").guest_port), (8080, 80));
    assert_eq!(port("127.0.0.1:53:53/udp").host_address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(port("[::1]:1:2").host_address, Some("::1".parse().unwrap()));
    assert_eq!(port("1:2/udp").protocol, Protocol::Udp);
    for bad in ["", "80", "a:1", "0:80", "80:0", "70000:1", "1:2/sctp", "x:1:2"] {
        assert_eq!(kind(PortForward::parse(bad)), ErrorKind::InvalidConfig, "{bad:?}");
    }
    let config = |kind, publish: &[&str]| NetworkConfig {
        kind,
        publish: publish.iter().map(|text| port(text)).collect(),
        ..NetworkConfig::default()
    };
    config(NetworkKind::Nat, &["1:1", "1:1/udp", "2:1"]).validate().unwrap();
    let refused = config(NetworkKind::Nat, &["1:1", "[::1]:8080:80"]).validate().unwrap_err().to_string();
    assert!(refused.contains("[::1]:8080") && refused.contains("give an IPv4 address"), "{refused}");
    assert_eq!(kind(config(NetworkKind::Nat, &["1:1", "1:2"]).validate()), ErrorKind::InvalidConfig);
    assert_eq!(kind(config(NetworkKind::None, &["1:1"]).validate()), ErrorKind::InvalidConfig);
    let given = NetworkConfig { namespace: Some("/run/netns/x".into()), ..config(NetworkKind::Nat, &[]) };
    assert_eq!(kind(given.validate()), ErrorKind::InvalidConfig);
}

#[test]
fn p_160_hooks_are_checked() {
    let hook = |path: &str, env: &str| Hooks {
        prestart: vec![HookSpec { path: path.into(), env: vec![env.into()], ..HookSpec::default() }],
        ..Hooks::default()
    };
    hook("/bin/true", "A=b").validate().unwrap();
    for (path, env) in [("", "A=b"), ("true", "A=b"), ("/bin/true", "Ab")] {
        assert_eq!(kind(hook(path, env).validate()), ErrorKind::InvalidConfig, "{path:?} {env:?}");
    }
    assert!(Hooks::default().is_empty() && !hook("/x", "A=b").is_empty());
    let old: Hooks = from_json(r#"{"createRuntime":[{"path":"/x","timeout":3}]}"#).unwrap();
    assert_eq!(old.create_runtime[0].timeout, 3);
}

#[test]
fn containers_are_checked() {
    let good = || ContainerConfig {
        id: "c".into(),
        rootfs: "/r".into(),
        command: Command { args: vec!["x".into()], ..Command::default() },
        ..ContainerConfig::default()
    };
    good().validate().unwrap();
    let bind = |source: &str, destination: &str| MountSpec {
        source: source.into(),
        destination: destination.into(),
        kind: "bind".into(),
        ..MountSpec::default()
    };
    let bad = [
        ContainerConfig { rootfs: "".into(), ..good() },
        ContainerConfig { rootfs: "r".into(), ..good() },
        ContainerConfig { command: Command::default(), ..good() },
        ContainerConfig { mounts: vec![bind("x", "/y")], ..good() },
        ContainerConfig { mounts: vec![bind("/x", "y")], ..good() },
        ContainerConfig { resources: Resources { memory: Some(0), ..Resources::default() }, ..good() },
        ContainerConfig { resources: Resources { cpu_shares: Some(1), ..Resources::default() }, ..good() },
        ContainerConfig { annotations: [(String::new(), String::new())].into(), ..good() },
    ];
    for config in bad {
        let error = config.validate().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{config:?}");
        assert!(error.to_string().contains("container c"), "{error}");
    }
    assert_eq!(kind(ContainerConfig { id: String::new(), ..good() }.validate()), ErrorKind::NeedContainerId);
    let twice = PodConfig { containers: vec![good(), good()], ..pod() };
    assert_eq!(kind(twice.complete()), ErrorKind::AlreadyExists);
}
