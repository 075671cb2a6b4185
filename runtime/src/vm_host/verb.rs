//! The hidden verb of a VMM process.

use super::machine::{GuestMachine, KvmMachine, MachineEnd};
use super::panic::report_ends;
use super::server::{serve_stdin, ServeError};
use crate::backend::{BackendError, BackendResult, VmSpec};
use crate::store::{FailureRecord, OpenRecord};
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
    let mut failure_record = None;
    let end = serve_stdin(|spec| {
        report_ends(&spec.uuid);
        // Now: this process gives up the host's files when it starts the machine.
        if !spec.failure_record.as_os_str().is_empty() {
            let opened = OpenRecord::create(&spec.failure_record);
            failure_record = Some(opened.map_err(|e| BackendError::Refused(e.chain()))?);
        }
        launch(spec)
    })?;
    if let Some(file) = failure_record.filter(|_| !end.expected) {
        let record = FailureRecord { reason: end.reason.clone(), at: Timestamp::now() };
        // The pod's directory may be gone; then no call needs the record.
        if let Err(error) = file.fill(&record) {
            log::warn!("{}", error.chain());
        }
    }
    Ok(end)
}
