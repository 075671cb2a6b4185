//! A program that uses the runtime as a library, for the tests of what such a program has to do. Its first argument:
//!
//! | argument | what it does |
//! |---|---|
//! | `forgets` | runs a pod without having called `hutch_runtime::init` |
//! | `boots` | calls `init` and runs a pod with a machine of the product, which needs a kernel that boots |
//! | `captures` | calls `init`, runs a pod with the fake machine and the product's shims, and captures an exec |
//!
//! The second argument is an empty directory. The program creates a file there whenever its `main` goes past `init`.

use std::fs;
use std::path::Path;

use hutch_runtime::host::{HostBackends, SHIM_VERB};
use hutch_runtime::shim::ProcessShims;
use hutch_runtime::spec::{Command, ContainerConfig, HypervisorConfig, NetworkConfig, NetworkKind, PodConfig};
use hutch_runtime::vm_host::ReExec;
use hutch_runtime::{Backends, DeleteOptions, Error, Runtime};
use hutch_runtime_fakes::process::{play_role, Stage};

fn main() {
    // The fake machine is this program too, in a role that it learns from its environment.
    play_role(|role| panic!("there is no role {role}"));
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode != "forgets" && !std::env::var("EMBEDDER_FORGETS").is_ok_and(|value| value == "1") {
        hutch_runtime::init();
    }
    let dir = std::env::args().nth(2).or_else(|| std::env::var("EMBEDDER_DIR").ok()).unwrap_or_default();
    fs::write(Path::new(&dir).join(format!("main-{}", std::process::id())), "").expect("a writable directory");
    let stage = Stage::new("unused");
    let result = match mode.as_str() {
        "captures" => captures(&stage),
        _ => boots(&stage),
    };
    if let Err(error) = result {
        println!("{}", error.chain());
    }
    println!("left: {:?}", stage.leaks());
}

fn pod(stage: &Stage) -> PodConfig {
    let command = Command { args: vec!["server".into()], detach: true, ..Command::default() };
    PodConfig {
        id: "p".into(),
        hypervisor: HypervisorConfig {
            kernel: stage.dir().join("kernel"),
            initrd: Some(stage.dir().join("initrd")),
            ..HypervisorConfig::default()
        },
        network: NetworkConfig { kind: NetworkKind::None, ..NetworkConfig::default() },
        containers: vec![ContainerConfig {
            id: "a".into(),
            rootfs: stage.dir().join("rootfs"),
            command,
            ..ContainerConfig::default()
        }],
        ..PodConfig::default()
    }
}

fn boots(stage: &Stage) -> Result<(), Error> {
    let host = HostBackends::default().backends(&stage.store());
    let backends = Backends { vm: host.vm, ..stage.backends() };
    Runtime::new(stage.store(), backends, stage.options()).run_pod(pod(stage)).map(drop)
}

fn captures(stage: &Stage) -> Result<(), Error> {
    let shims = ProcessShims { reap: true, namespaces: false, ..ProcessShims::new(ReExec::itself(SHIM_VERB)) };
    let backends = Backends { shims: std::sync::Arc::new(shims), ..stage.backends() };
    let runtime = Runtime::new(stage.store(), backends, stage.options());
    let pod = runtime.run_pod(pod(stage))?;
    let command = Command { args: vec!["exit".into(), "3".into()], ..Command::default() };
    let output = runtime.get_container("p", "a")?.output(&command)?;
    print!("{}: {}", output.exit.shell_code(), String::from_utf8_lossy(&output.stdout));
    pod.delete_with(DeleteOptions { force: true })
}
