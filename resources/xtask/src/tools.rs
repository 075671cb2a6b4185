//! Programs of this repository that run the testbed.

use std::path::PathBuf;

use crate::build::{self, Program, AGENT};
use crate::Result;

/// Pid 1 of the testbed.
pub(crate) const TESTBED_INIT: Program = ("hutch-testbed", "testbed-init");
/// Makes the testbed's kernels.
pub(crate) const TESTBED_KERNEL: Program = ("hutch-testbed-kernel", "testbed-kernel");

/// Programs that the testbed needs. Tasks that have built them already pass them on; the others are built when needed.
#[derive(Clone, Default)]
pub(crate) struct Tools {
    /// Pid 1 of the emulated machine.
    pub(crate) init: Option<PathBuf>,
    /// Makes its kernels.
    pub(crate) kernel_program: Option<PathBuf>,
}

impl Tools {
    /// The built pid 1.
    pub(crate) fn init(&self) -> Result<PathBuf> {
        if let Some(init) = &self.init {
            return Ok(init.clone());
        }
        println!("    Building testbed-init, pid 1 of the testbed");
        let [init] = build::static_programs([TESTBED_INIT], AGENT)?;
        Ok(init)
    }
}
