//! Hooks and the VMM process in a real network namespace, and the VMM process's other namespaces. Needs root.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hutch_runtime::backend::{Backends, Network, VmLaunch};
use hutch_runtime::network::TcNetwork;
use hutch_runtime::spec::{HookSpec, Jail, NetworkConfig, NetworkKind};
use hutch_runtime::{Runtime, StopOptions};
use hutch_runtime_fakes::process::Stage;

use crate::calls::{assert_no_leaks, pod, ROLE_TEST};

/// A hook that notes its network namespace, and that of the main thread of the process whose PID its state has.
fn note(dir: &Path, name: &str) -> HookSpec {
    let line = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/;t;s/.*/none/'); \
         {{ readlink /proc/self/ns/net; readlink /proc/$pid/ns/net || echo none; }} > {}/{name}",
        dir.display()
    );
    let args = ["sh", "-c", &line].map(str::to_owned).to_vec();
    HookSpec { path: "/bin/sh".into(), args, env: vec!["PATH=/usr/bin:/bin".into()], timeout: 60 }
}

/// Namespace of the hook, and of the process in its state.
fn noted(dir: &Path, name: &str) -> (String, String) {
    let text = std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().expect("the hook's"), lines.next().expect("the process's"))
}

fn own() -> String {
    std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace").display().to_string()
}

/// Prestart hooks run in the pod's namespace, the others in the caller's; and the PID that they get leads to the pod's
/// namespace from outside, by its main thread.
#[test]
fn p_165_p_167_prestart_hooks_are_in_the_pods_namespace_and_their_pid_leads_there() {
    let stage = Stage::new(ROLE_TEST);
    let network = TcNetwork::new(stage.dir().join("netns"));
    let config = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
    let probe = network.plan("probe", &config).and_then(|namespace| {
        network.create("probe", &namespace, &config)?;
        network.delete("probe", &namespace)
    });
    if let Err(error) = probe {
        // Bypasses the output capture of libtest, so that the skip is counted.
        let line = format!("SKIPPED: no network namespace can be made here: {error}\n");
        return std::io::stdout().write_all(line.as_bytes()).expect("stdout");
    }
    let backends = Backends { network: Arc::new(network), ..stage.backends() };
    let runtime = Runtime::new(stage.store(), backends, stage.options());
    let mut config = pod(&stage, "p");
    for (list, name) in [
        (&mut config.hooks.prestart, "prestart"),
        (&mut config.hooks.create_runtime, "createRuntime"),
        (&mut config.hooks.poststart, "poststart"),
        (&mut config.hooks.poststop, "poststop"),
    ] {
        list.push(note(stage.dir(), name));
    }
    let before = own();
    runtime.run_pod(config).unwrap();
    let vmm = runtime.status_pod("p").unwrap().vmm_pid;
    let of_pod = std::fs::read_link(format!("/proc/{vmm}/ns/net")).expect("the VMM's").display().to_string();
    assert_ne!(of_pod, before);
    for name in ["prestart", "createRuntime"] {
        assert_eq!(noted(stage.dir(), name), (of_pod.clone(), of_pod.clone()), "{name}");
    }
    assert_eq!(noted(stage.dir(), "poststart"), (before.clone(), of_pod));
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    // There is no process of the pod then.
    assert_eq!(noted(stage.dir(), "poststop"), (before.clone(), "none".to_owned()));
    assert_eq!(own(), before);
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_no_leaks(&stage, "hooks");
    assert_eq!(std::fs::read_dir(stage.dir().join("netns")).into_iter().flatten().count(), 0);
}

/// The kinds of namespaces in which a process is not with this one.
fn apart(pid: i32) -> Vec<&'static str> {
    let of = |process: &str, kind: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("a namespace");
    let pid = pid.to_string();
    ["mnt", "pid", "ipc", "uts", "net"].into_iter().filter(|kind| of(&pid, kind) != of("thread-self", kind)).collect()
}

#[test]
fn a_machine_is_in_namespaces_of_its_own_as_its_jail_and_network_allow() {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS).is_err() {
        let line = "SKIPPED: no namespaces can be made here: not root\n";
        return std::io::stdout().write_all(line.as_bytes()).expect("stdout");
    }
    let stage = Stage::new(ROLE_TEST);
    let dir = stage.dir().join("run");
    std::fs::create_dir_all(&dir).expect("a directory");
    let all = ["mnt", "pid", "ipc", "uts", "net"];
    for (jail, no_network, expected) in
        [(Jail::On, true, &all[..]), (Jail::On, false, &all[..4]), (Jail::Off, true, &[]), (Jail::Off, false, &[])]
    {
        let (socket, log) = (dir.join("vm.sock"), dir.join("log"));
        let launch = VmLaunch {
            pod: "p",
            uuid: "u",
            run_dir: &dir,
            socket: &socket,
            log: &log,
            program: None,
            jail,
            no_network,
        };
        let vm = stage.backends().vm.spawn(&launch).expect("a process");
        let process = vm.process();
        assert_eq!(apart(process.pid), expected, "{jail:?} {no_network}");
        drop(vm);
        assert!(process.wait_end(Duration::from_secs(120)).expect("a wait"), "{jail:?}");
    }
}
