//! `/init` of the guest of a pod. As hutch-agent, there is no Rust `main`, and for the same reasons.
#![no_main]
#![deny(unsafe_code)]

use std::path::Path;

use hutch_agent::init::{run_with, RUN_DIR};
use hutch_agent_oci::containers::OciContainers;
use hutch_agent_oci::helper;

/// Entry from the C library's start-up code.
#[allow(unsafe_code)] // The name is what the C library links against; no other `main` exists in this program.
#[no_mangle]
pub extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    if std::process::id() == 1 {
        run_with(Box::new(OciContainers::new(Path::new(RUN_DIR))));
    }
    helper::run().unwrap_or_else(|| {
        eprintln!("hutch-agent-oci is the init of a hutch guest and runs only as process 1");
        125
    })
}
