//! `/init` of the guest of a pod. It has no Rust `main`, for the same reasons as `hutch-agent`.
#![no_main]
#![deny(unsafe_code)]

use std::path::Path;

use hutch_agent::init::{run_with, RUN_DIR};
use hutch_agent_oci::{run_job, OciContainers};

/// Entry from the C library's start-up code.
#[expect(unsafe_code, reason = "the C library links against this name; the program has no other `main`")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    if std::process::id() == 1 {
        run_with(Box::new(OciContainers::new(Path::new(RUN_DIR))));
    }
    run_job().unwrap_or_else(|| {
        eprintln!("hutch-agent-oci is the init of a hutch guest and runs only as process 1");
        125
    })
}
