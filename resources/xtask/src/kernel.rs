//! Which kernel boots the emulated machine, and getting it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use hutch_test_harness::kernel::{self, Kernel};

use crate::Result;

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

/// The kernel, made if the cache has none. With `refresh`, a newer one of Debian's is fetched if there is one.
pub fn bed(choice: &Choice, refresh: bool) -> Result<Kernel> {
    Ok(match choice {
        Choice::Distro => kernel::distro(refresh)?,
        Choice::Own => return Err("not yet".into()),
        Choice::Path(path) => kernel::given(path),
    })
}
