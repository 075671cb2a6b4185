//! Hidden verbs. With two of them the runtime starts this program again: as the VMM of a pod, and as the shim of a
//! guest process. They run before anything else, because they start often and must be cheap. The third writes the man
//! pages.

use hutch_runtime::host::{SHIM_VERB, VMM_VERB};
use hutch_runtime::shim::shim_verb;
use hutch_runtime::vm_host::vmm_verb;

use crate::failure::{error_chain, FAILED};
use crate::{logging, man};

/// `hutch __man DIR` writes the man pages to DIR.
const MAN_VERB: &str = "__man";

/// Runs a hidden verb, if the command line has one, and returns its exit code.
pub fn run() -> Option<u8> {
    let verb = std::env::args_os().nth(1)?;
    if verb == VMM_VERB {
        return Some(run_vmm());
    }
    if verb == SHIM_VERB {
        logging::init_hidden(None);
        return Some(shim_verb());
    }
    if verb == MAN_VERB {
        return Some(man::run(std::env::args_os().nth(2).as_deref()));
    }
    None
}

/// Runs the machine of a pod. Stdout and stderr are the pod's `vmm.log`.
fn run_vmm() -> u8 {
    logging::init_hidden(Some(log::LevelFilter::Info));
    match vmm_verb() {
        Ok(end) if end.expected => {
            log::info!("the machine ended on request: {}", end.reason);
            0
        }
        Ok(end) => {
            log::error!("the machine ended unexpectedly: {}", end.reason);
            FAILED
        }
        Err(error) => {
            log::error!("{}", error_chain(&error));
            FAILED
        }
    }
}
