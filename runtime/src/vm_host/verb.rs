//! The hidden verb of a VMM process.

use std::path::PathBuf;

use super::machine::{GuestMachine, KvmMachine, MachineEnd};
use super::panic::report_panics;
use super::server::{serve_stdin, ServeError};
use crate::backend::{BackendResult, VmSpec};
use crate::store::{write_record, FailureRecord};
use crate::timestamp::Timestamp;

/// Holds a machine of hutch until it ends; what `hutch` does when it is started again for that. Stdin is the control
/// socket.
///
/// # Errors
/// [`ServeError`]: there was no machine.
pub fn vmm_verb() -> Result<MachineEnd, ServeError> {
    vmm_verb_with(KvmMachine::launch)
}

/// As [`vmm_verb`] with another kind of machine.
pub fn vmm_verb_with<M: GuestMachine + 'static>(
    launch: impl FnOnce(&VmSpec) -> BackendResult<M>,
) -> Result<MachineEnd, ServeError> {
    let mut failure_record = PathBuf::new();
    let end = serve_stdin(|spec| {
        failure_record.clone_from(&spec.failure_record);
        report_panics(&spec.uuid);
        launch(spec)
    })?;
    if !end.expected && !failure_record.as_os_str().is_empty() {
        let record = FailureRecord { reason: end.reason.clone(), at: Timestamp::now() };
        // The pod's directory may be gone; then no call needs the record.
        if let Err(error) = write_record(&failure_record, &record) {
            log::warn!("{}", error.chain());
        }
    }
    Ok(end)
}
