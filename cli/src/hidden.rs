//! The verbs with which the runtime starts this program again: the process that holds a pod's machine, and the one that
//! stands for a guest process. They come before everything else, for they are started often and must be cheap.

use hutch_runtime::host::{SHIM_VERB, VMM_VERB};
use hutch_runtime::shim::shim_verb;
use hutch_runtime::vm_host::vmm_verb;

use crate::failure::{chain, FAILED};
use crate::logging;

/// Carries such a verb out, if this is one; its exit code.
pub fn run() -> Option<u8> {
    let verb = std::env::args_os().nth(1)?;
    if verb == VMM_VERB {
        return Some(hold_machine());
    }
    if verb == SHIM_VERB {
        logging::init_hidden(None);
        return Some(shim_verb());
    }
    None
}

/// Stdout and stderr are the pod's `vmm.log`.
fn hold_machine() -> u8 {
    logging::init_hidden(Some(log::LevelFilter::Info));
    match vmm_verb() {
        Ok(end) if end.expected => {
            log::info!("the machine has ended as asked for: {}", end.reason);
            0
        }
        Ok(end) => {
            log::error!("the machine has ended unexpectedly: {}", end.reason);
            FAILED
        }
        Err(error) => {
            log::error!("{}", chain(&error));
            FAILED
        }
    }
}
