//! Names for failed ioctls.

use std::io;

use super::super::HvError;

/// Gives a failed ioctl its name.
pub(super) fn failed(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> HvError {
    move |error| HvError { operation, source: io::Error::from_raw_os_error(error.errno()) }
}
