//! `cargo xtask perf`: hutch's costs. `--runtime` measures the pod calls alone, `--containers` the start of a container beside
//! crun's (`tests/perf`). Otherwise hutch and QEMU's microvm take turns to boot the same kernel and initrd, and `hutch run` takes
//! turns with crun and runc; `hutch bench boot` measures them. All this happens in the testbed's deterministic time, or on this
//! host's KVM if that works.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::kernel::Choice;
use crate::setup::{self, Need};
use crate::stage::Stage;
use crate::testbed::{self, RunRequest};
use crate::{demo, Result};

/// The peer. `hutch bench` has a template for its command line.
const PEER: &str = "qemu-microvm=@qemu-microvm";

/// Options of `perf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Guest kernel: distro or source
    #[arg(long, value_name = "KERNEL", default_value = "source")]
    kernel: String,
    /// Number of measured rounds
    #[arg(long, short = 'n', default_value_t = 9)]
    rounds: u32,
    /// Measure the runtime's own part of each pod call instead, without a machine
    #[arg(long, conflicts_with_all = ["kernel", "rounds", "containers", "more"])]
    runtime: bool,
    /// Measure the start of a container in a running pod instead, beside crun with the same bundle
    #[arg(long, conflicts_with_all = ["runtime", "more"])]
    containers: bool,
    /// More arguments for `hutch bench boot`
    #[arg(last = true)]
    more: Vec<OsString>,
}

/// Runs the task.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    if args.runtime {
        crate::build::run(crate::build::cargo().args(["run", "--release", "-p", "hutch-perf"]))?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(&[Need::Testbed, Need::RootFs, Need::Peers])?;
    let stage = Stage::build()?;
    stage.make_guest(&args.kernel)?;
    let root = demo::busybox_root()?;
    let mut command: Vec<OsString> = vec![stage.hutch.clone().into()];
    if args.containers {
        command = container_start()?;
        let bundle = bundle(&root, &["/bin/sleep", "100000"])?;
        command.extend([stage.hutch.clone().into(), args.kernel.into(), root.into(), bundle.into()]);
        command.push(args.rounds.to_string().into());
        return in_testbed(&stage, command);
    }
    let bundle = bundle(&root, &["/bin/true"])?.display().to_string();
    command.extend(["bench", "boot", "--peer", PEER, "--kernel"].map(OsString::from));
    command.extend([args.kernel.into(), "--rounds".into(), args.rounds.to_string().into()]);
    command.extend(["--rootfs".into(), root.into()]);
    for runtime in ["crun", "runc"] {
        command.extend(["--peer".into(), format!("{runtime}={runtime} run -b {bundle} hutch-perf").into()]);
    }
    let has_command = args.more.iter().any(|word| word == "--");
    command.extend(args.more);
    if !has_command {
        command.extend(["--", "/bin/true"].map(OsString::from));
    }
    in_testbed(&stage, command)
}

/// A bundle that runs a command in the same root directory, for runtimes without machines.
fn bundle(root: &Path, command: &[&str]) -> Result<PathBuf> {
    let bundle = crate::build::target_dir().join("perf-bundle");
    std::fs::create_dir_all(&bundle)?;
    let path = bundle.join("config.json");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    crate::build::run(Command::new("crun").args(["spec", "-b"]).arg(&bundle))?;
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(command);
    config["root"] = serde_json::json!({"path": root, "readonly": false});
    std::fs::write(&path, config.to_string())?;
    Ok(bundle)
}

/// Builds the program that measures containers.
fn container_start() -> Result<Vec<OsString>> {
    let [program] = crate::build::static_programs([("hutch-perf", "container-start")], crate::build::RELEASE)?;
    Ok(vec![program.into()])
}

fn in_testbed(stage: &Stage, command: Vec<OsString>) -> Result<ExitCode> {
    let code = testbed::wherever(&RunRequest {
        args: command,
        env: stage.env(),
        write: Vec::new(),
        kernel: Choice::Own,
        deterministic: true,
        memory_mib: 4096,
        timeout: Duration::from_secs(3600).mul_f64(crate::suite::slowness()),
        tools: stage.tools.clone(),
    })?;
    Ok(ExitCode::from(code))
}
