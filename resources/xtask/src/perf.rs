//! `cargo xtask perf`: what hutch costs. With `--runtime` the pod calls alone (`tests/perf`). Otherwise boots of hutch
//! and of QEMU's microvm turn by turn, with the same kernel and initrd, in the bed's deterministic time, or on this
//! host's KVM if that works; `hutch bench boot` does the measuring.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use crate::bed::{self, Errand};
use crate::kernel::Choice;
use crate::setup::{self, Need};
use crate::stage::Stage;
use crate::{demo, Result};

/// The peer, by the template that `hutch bench` has built in.
const PEER: &str = "qemu-microvm=@qemu-microvm";

/// Options of `perf`.
#[derive(clap::Args)]
pub struct Args {
    /// Guest kernel: distro or source
    #[arg(long, value_name = "KERNEL", default_value = "source")]
    kernel: String,
    /// Kept rounds
    #[arg(long, short = 'n', default_value_t = 9)]
    rounds: u32,
    /// Instead: what the runtime's own part of each pod call costs, without any machine
    #[arg(long, conflicts_with_all = ["kernel", "rounds", "more"])]
    runtime: bool,
    /// More arguments for `hutch bench boot`
    #[arg(last = true)]
    more: Vec<OsString>,
}

/// Runs the task.
pub fn main(args: Args) -> Result<ExitCode> {
    if args.runtime {
        crate::build::run(crate::build::cargo().args(["run", "--quiet", "--release", "-p", "hutch-perf"]))?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(&[Need::Bed, Need::RootFs])?;
    let stage = Stage::build()?;
    stage.make_guest(&args.kernel)?;
    let root = demo::busybox_root()?;
    let mut command: Vec<OsString> = vec![stage.hutch.clone().into()];
    command.extend(["bench", "boot", "--peer", PEER, "--kernel"].map(OsString::from));
    command.extend([args.kernel.into(), "--rounds".into(), args.rounds.to_string().into()]);
    command.extend(["--rootfs".into(), root.into()]);
    command.extend(args.more);
    let code = bed::wherever(&Errand {
        args: command,
        env: stage.env(),
        write: Vec::new(),
        kernel: Choice::Own,
        deterministic: true,
        memory_mib: 4096,
        timeout: Duration::from_secs(1800),
    })?;
    Ok(ExitCode::from(code))
}
