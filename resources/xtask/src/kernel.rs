//! Chooses and provides the kernel that boots the emulated machine.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use hutch_testbed_host::kernel::{self, Kernel};

use crate::tools::Tools;
use crate::{build, Result};

/// A kernel for the emulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Debian's cloud kernel: ready in seconds, one CPU.
    Distro,
    /// Built from source: two CPUs and a faster start, after minutes of building.
    Own,
    /// An image given by path.
    Path(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "distro" => Choice::Distro,
            "own" => Choice::Own,
            path => Choice::Path(path.into()),
        })
    }
}

/// Configuration of our own kernel, from the root of the repository.
const OWN_REQUEST: &str = "resources/kernel/testbed.config";

/// The kernel. Makes it if the cache has none or, for our own, one from another configuration. With `refresh`, also checks
/// whether Debian has a newer kernel or a newer source.
pub(crate) fn testbed(choice: &Choice, refresh: bool, tools: &Tools) -> Result<Kernel> {
    let cached = || match choice {
        Choice::Distro => kernel::distro(),
        Choice::Own => kernel::own(&fs::read(build::root().join(OWN_REQUEST)).unwrap_or_default()),
        Choice::Path(path) => Some(kernel::given(path)),
    };
    let name = match choice {
        Choice::Distro => "distro",
        Choice::Own => "own",
        Choice::Path(path) => return Ok(kernel::given(path)),
    };
    if let Some(kernel) = cached().filter(|_| !refresh) {
        return Ok(kernel);
    }
    let mut command = match &tools.kernel_program {
        Some(program) => Command::new(program),
        None => {
            println!("    Building testbed-kernel, which makes kernels for the testbed");
            let mut command = build::cargo();
            command.args(["run", "-p", "hutch-testbed-kernel", "--"]);
            command
        }
    };
    build::run(command.arg(name))?;
    cached().ok_or_else(|| format!("testbed-kernel left no {name} kernel in {}", kernel::cache_dir().display()).into())
}
