//! Which kernel boots the emulated machine, and getting it.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use hutch_testbed_host::kernel::{self, Kernel};

use crate::{build, Result};

/// Which kernel boots the emulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
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

/// The testbed's own kernel's request, from the root of the repository.
const OWN_REQUEST: &str = "resources/kernel/testbed.config";

/// The kernel, made if the cache has none or, for our own, one from another request. With `refresh` it is also
/// looked whether Debian has a newer one or a newer source.
pub fn testbed(choice: &Choice, refresh: bool) -> Result<Kernel> {
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
    build::run(build::cargo().args(["run", "--quiet", "-p", "hutch-testbed-kernel", "--", name]))?;
    cached().ok_or_else(|| format!("testbed-kernel left no {name} kernel in {}", kernel::cache_dir().display()).into())
}
