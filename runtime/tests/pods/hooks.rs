//! Hooks where they belong in a pod's life (pod contract, §8).

use std::time::Duration;

use hutch_runtime::spec::HookSpec;
use hutch_runtime::{ErrorKind, State};
use hutch_runtime_fakes::FakeHost;

use crate::support::{assert_clean, error, finish, new, pod_state};

/// A hook that runs a line of shell.
pub fn shell(line: &str) -> HookSpec {
    HookSpec {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), line.into()],
        env: vec!["PATH=/usr/bin:/bin".into()],
        timeout: 10,
    }
}

/// A hook that notes its name.
fn note(host: &FakeHost, name: &str) -> HookSpec {
    shell(&format!("cat > /dev/null; echo {name} >> {}/notes", host.dir().display()))
}

fn notes(host: &FakeHost) -> Vec<String> {
    let text = std::fs::read_to_string(host.dir().join("notes")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn p_063_prestart_hooks_run_in_order_and_the_first_failure_ends_the_creation() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a"]);
    config.hooks.prestart = vec![
        note(&host, "one"),
        shell("cat > /dev/null; echo to stdout; echo to stderr >&2; exit 3"),
        note(&host, "never"),
    ];
    let error = error(runtime.create_pod(config));
    assert_eq!(error.kind(), ErrorKind::Hook);
    let text = error.chain();
    assert!(text.contains("to stdout") && text.contains("to stderr") && text.contains('3'), "{text}");
    assert_eq!(notes(&host), ["one"]);
    assert_clean(&host);
}

/// P-070, P-076, P-164: poststart after the last container, failures ignored.
#[test]
fn p_076_poststart_failures_are_ignored_and_the_rest_runs() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a", "b"]);
    config.hooks.poststart = vec![note(&host, "one"), shell("exit 1"), note(&host, "two")];
    runtime.create_pod(config).unwrap();
    assert!(notes(&host).is_empty());
    runtime.start_pod("p").unwrap();
    assert_eq!(notes(&host), ["one", "two"]);
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}

#[test]
fn p_088_poststop_hooks_run_once_however_often_the_pod_is_stopped() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &[]);
    config.hooks.poststop = vec![shell("exit 1"), note(&host, "stopped")];
    runtime.run_pod(config).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(notes(&host), ["stopped"]);
    // A new life, a new end.
    runtime.start_pod("p").unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(notes(&host), ["stopped", "stopped"]);
    finish(&host, &runtime);
    assert_eq!(notes(&host), ["stopped", "stopped"]);
}

/// P-165, P-166, P-064: prestart and createRuntime after the namespace exists and before the scan; createContainer
/// before the first container; startContainer goes to the guest.
#[test]
fn p_166_each_kind_of_hook_runs_at_its_place() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a"]);
    config.hooks.prestart = vec![note(&host, "prestart")];
    config.hooks.create_runtime = vec![note(&host, "createRuntime")];
    config.hooks.create_container = vec![note(&host, "createContainer")];
    config.hooks.start_container = vec![shell("true")];
    runtime.create_pod(config).unwrap();
    assert_eq!(notes(&host), ["prestart", "createRuntime", "createContainer"]);
    let spec = host.guest("p", |guest| guest.spec("a")).unwrap();
    assert_eq!(spec["hooks"]["startContainer"][0]["path"], "/bin/sh");
    assert!(spec["hooks"].get("prestart").is_none());
    let calls = host.calls();
    let at = |wanted: &str| calls.iter().position(|call| call.starts_with(wanted)).unwrap();
    assert!(at("network.create") < at("network.scan"));
    // The hooks of the container's creation run in the namespace too, when the guest is there.
    let entered = calls.iter().rposition(|call| call == "network.run").unwrap();
    assert!(at("agent.setup-sandbox") < entered && entered < at("agent.create-container"), "{calls:#?}");
    finish(&host, &runtime);
}

#[test]
fn p_064_interfaces_made_by_a_prestart_hook_are_found_by_the_scan() {
    for (number, kind) in ["prestart", "createRuntime", "createContainer"].into_iter().enumerate() {
        let (host, runtime) = new();
        let mut config = host.pod("p", &[]);
        let made = host.dir().join("made");
        host.add_interface_with(&made, &host.namespace("p"), crate::network::endpoint("eth0"));
        let hook = vec![shell(&format!("cat > /dev/null; echo yes > {}", made.display()))];
        match number {
            0 => config.hooks.prestart = hook,
            1 => config.hooks.create_runtime = hook,
            _ => config.hooks.create_container = hook,
        }
        runtime.create_pod(config).unwrap();
        let found = host.guest("p", |guest| guest.sandbox().unwrap().network.interfaces.len());
        // Hooks of the container's creation come when the machine has its network.
        assert_eq!(found, usize::from(number < 2), "{kind}");
        finish(&host, &runtime);
    }
}

/// P-161, P-167: OCI version, id, status, the VMM's pid, bundle, annotations.
#[test]
fn p_161_a_hook_reads_the_state_on_its_stdin() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &[]);
    config.annotations.insert("dev.hutch.oci.bundle".into(), "/bundles/p".into());
    let save = |name: &str| shell(&format!("cat > {}/{name}", host.dir().display()));
    config.hooks.prestart = vec![save("prestart")];
    config.hooks.poststart = vec![save("poststart")];
    config.hooks.poststop = vec![save("poststop")];
    runtime.run_pod(config).unwrap();
    let pid = runtime.status_pod("p").unwrap().vmm_pid;
    runtime.stop_pod("p", Default::default()).unwrap();
    for (name, status, expected) in
        [("prestart", "creating", Some(pid)), ("poststart", "running", Some(pid)), ("poststop", "stopped", None)]
    {
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(host.dir().join(name)).unwrap()).unwrap();
        assert_eq!(state["ociVersion"], "1.2.0");
        assert_eq!((state["id"].as_str(), state["status"].as_str()), (Some("p"), Some(status)));
        assert_eq!(state["pid"].as_i64(), expected.map(i64::from), "{name}");
        assert_eq!(state["bundle"], "/bundles/p");
        assert_eq!(state["annotations"]["dev.hutch.oci.bundle"], "/bundles/p");
    }
    finish(&host, &runtime);
}

/// The guest gets the place of its own hooks, and time for them and for those inside of containers.
#[test]
fn p_166_hooks_in_the_guest_have_time() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a"]);
    config.agent.guest_hooks = Some("/run/hutch/volumes/hooks".into());
    config.hooks.start_container = vec![HookSpec { timeout: 3, ..shell("true") }];
    runtime.create_pod(config).unwrap();
    let spec = host.guest("p", |guest| guest.spec("a")).unwrap();
    assert_eq!(spec["annotations"]["dev.hutch.guest.hooks"], "/run/hutch/volumes/hooks");
    runtime.start_pod("p").unwrap();
    let extra = |call| host.guest("p", |guest| guest.timeouts[call]) - runtime.options().agent_timeout;
    runtime.create_container("p", host.container("b")).unwrap();
    runtime.delete_container("p", "b").unwrap();
    // 30 s for those of one kind, 10 s more for the last one, and those inside.
    for call in ["create-container", "start-container", "remove-container"] {
        assert_eq!(extra(call), Duration::from_secs(48), "{call}");
    }
    assert_eq!(extra("setup-sandbox"), Duration::ZERO);
    // A container's own come instead of the pod's; without a limit they have what the guest allows.
    let mut own = host.container("own");
    let hooks = serde_json::json!({"startContainer": [{"path": "/a"}, {"path": "/b", "timeout": 5}]});
    let oci = serde_json::json!({"process": {"args": ["a"], "cwd": "/"}, "root": {"path": "r"}, "hooks": hooks});
    own.annotations.insert(hutch_runtime::spec::oci::CONFIG_KEY.into(), oci.to_string());
    runtime.create_container("p", own).unwrap();
    assert_eq!(extra("create-container"), Duration::from_secs(45 + 120));
    finish(&host, &runtime);

    let (host, runtime) = new();
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    let timeout = host.guest("p", |guest| guest.timeouts["start-container"]);
    assert_eq!(timeout, runtime.options().agent_timeout, "there is nothing to wait for");
    finish(&host, &runtime);
}
