//! The call that a program makes first in its `main`.

use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};

use crate::host::{SHIM_VERB, VMM_VERB};
use crate::shim::shim_verb;
use crate::vm_host::{allow_reexec, vmm_verb};
use hutch_agent_proto::error_chain;

/// Level of messages that a VMM process writes to the pod's `vmm.log`.
const VMM_LEVEL: LevelFilter = LevelFilter::Info;
/// Level of messages that a shim writes to the caller's stderr.
const SHIM_LEVEL: LevelFilter = LevelFilter::Warn;
/// Exit code of a VMM process whose machine did not start or ended unexpectedly.
const VMM_FAILED: u8 = 1;

/// Makes this program able to hold pods. Call it first thing in `main`, before the program reads its arguments, opens
/// files or starts threads.
///
/// The runtime holds each machine and each guest process in a process of its own, and starts these by executing the
/// running program again with a hidden verb as the first argument. In such a process `init` does the verb's work and
/// exits; it does not return. In every other process it returns at once.
///
/// In a program that has not called `init`, calls that would start such a process fail with an error that says so.
/// A program that names another one in [`HostBackends`](crate::host::HostBackends), such as an installed `hutch` of the
/// same version, does not need it.
pub fn init() {
    allow_reexec();
    if let Some(code) = hidden_verb() {
        std::process::exit(code.into());
    }
}

/// Does the work of the hidden verb that this process was started for, if any; its exit code.
fn hidden_verb() -> Option<u8> {
    let verb = std::env::args_os().nth(1)?;
    if verb == VMM_VERB {
        return Some(hold_machine());
    }
    if verb == SHIM_VERB {
        log_to_stderr(SHIM_LEVEL);
        return Some(shim_verb());
    }
    None
}

/// Stdout and stderr are the pod's `vmm.log`.
fn hold_machine() -> u8 {
    log_to_stderr(VMM_LEVEL);
    match vmm_verb() {
        Ok(end) if end.expected => {
            log::info!("the machine ended on request: {}", end.reason);
            0
        }
        Ok(end) => {
            log::error!("the machine ended unexpectedly: {}", end.reason);
            VMM_FAILED
        }
        Err(error) => {
            log::error!("{}", error_chain(&error));
            VMM_FAILED
        }
    }
}

/// Logs at the level of `HUTCH_LOG`, or else at `level`. A logger that the program has set already stays.
fn log_to_stderr(level: LevelFilter) {
    // The program that started this process has reported a bad value.
    let named = std::env::var("HUTCH_LOG").ok().and_then(|text| text.parse().ok());
    if log::set_logger(&StderrLogger).is_ok() {
        log::set_max_level(named.unwrap_or(level));
    }
}

struct StderrLogger;

impl Log for StderrLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_lowercase();
            // One write, so that lines of several processes do not mix. A failure cannot be reported anywhere.
            let line = format!("hutch: {level}: {}: {}\n", record.target(), record.args());
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
