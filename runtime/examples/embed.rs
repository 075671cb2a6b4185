//! A program that runs a container in a virtual machine of its own, with hutch as a library.
//!
//! ```text
//! cargo build --example embed -p hutch-runtime
//! sudo target/debug/examples/embed ROOT [RECORDS [KERNEL]]
//! ```
//!
//! `ROOT` is a directory with a root file system that has `/bin/sh`, such as an unpacked image. `RECORDS` is a directory
//! for the records of the pod, by default `/run/hutch-embed`. `KERNEL` is `distro`, which is the default, `source`, `host`
//! or the path of a kernel.
//!
//! The program boots a machine, runs a container in it, prints the output of a further process in the container, and
//! removes everything again.
//!
//! It needs root, `/dev/kvm`, guest files (`hutch guest build` makes them), and `hutch-agent-oci` beside the program or
//! named by `HUTCH_AGENT_OCI`.

use std::error::Error;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use hutch_guest::{guest_dir, KernelChoice, PodAssets};
use hutch_runtime::host::HostBackends;
use hutch_runtime::spec::{Command, ContainerConfig, HypervisorConfig, NetworkConfig, NetworkKind, PodConfig};
use hutch_runtime::{DeleteOptions, Options, PodHandle, Runtime, StdioConfig, Store};

fn main() -> Result<(), Box<dyn Error>> {
    // Before anything else: the processes that hold the machine and the guest processes are this program, started again.
    hutch_runtime::init();

    let mut args = std::env::args_os().skip(1);
    let root = PathBuf::from(args.next().ok_or("usage: embed ROOT [RECORDS [KERNEL]]")?).canonicalize()?;
    let records = args.next().map_or_else(|| "/run/hutch-embed".into(), PathBuf::from);
    let kernel = args.next().and_then(|name: OsString| name.to_str()?.parse().ok()).unwrap_or(KernelChoice::Distro);

    let store = Store::new(records.join("config"), records.join("state"));
    let backends = HostBackends::default().backends(&store);
    // Time for a slow host; the default of each is 10 s.
    let (boot_timeout, agent_timeout) = (Duration::from_secs(300), Duration::from_secs(60));
    let options = Options { boot_timeout, agent_timeout, ..Options::default() };
    let runtime = Runtime::new(store, backends, options);

    let pod = runtime.run_pod(config(root, kernel)?)?;
    let result = use_pod(&pod);
    if result.is_err() {
        // Whatever went wrong, no machine stays.
        pod.delete_with(DeleteOptions { force: true })?;
    }
    result
}

/// A pod with one container.
fn config(root: PathBuf, kernel: KernelChoice) -> Result<PodConfig, Box<dyn Error>> {
    let assets = PodAssets::open(&guest_dir(None), kernel, || None)?;
    let server = ContainerConfig {
        id: "server".into(),
        rootfs: root,
        command: Command {
            stdio: StdioConfig::captured(),
            ..shell("trap 'echo bye; exit' TERM; echo hello; sleep 1000 & wait")
        },
        ..ContainerConfig::default()
    };
    Ok(PodConfig {
        id: "embedded".into(),
        hypervisor: HypervisorConfig {
            kernel: assets.kernel,
            initrd: Some(assets.initrd),
            memory_mib: 192,
            ..HypervisorConfig::default()
        },
        network: NetworkConfig { kind: NetworkKind::None, ..NetworkConfig::default() },
        containers: vec![server],
        ..PodConfig::default()
    })
}

fn shell(script: &str) -> Command {
    Command { args: vec!["/bin/sh".into(), "-c".into(), script.into()], ..Command::default() }
}

fn use_pod(pod: &PodHandle) -> Result<(), Box<dyn Error>> {
    let server = pod.container("server")?.ok_or("the container is gone")?;

    // The container's own output, from its first line on: from then on it heeds signals.
    let stdout = server.take_pipes().stdout.ok_or("its stdout is not piped")?;
    let mut lines = BufReader::new(stdout).lines();
    println!("container: {}", lines.next().ok_or("it says nothing")??);

    // A further process in the container, with its output.
    let output = server.output(&shell("echo kernel $(uname -r); echo on stderr >&2; exit 3"))?;
    print!("exec: {}", String::from_utf8_lossy(&output.stdout));
    print!("exec: {}", String::from_utf8_lossy(&output.stderr));
    println!("exec: exit code {}", output.exit.shell_code());

    server.kill(15)?;
    for line in lines {
        println!("container: {}", line?);
    }

    pod.stop()?.delete()?;
    println!("pod {} is gone", pod.id());
    Ok(())
}
