//! Kernels compiled from Debian's source package: the guest's own, and the one of the machine that hutch's tests
//! run in on hosts without a usable /dev/kvm.

mod kconfig;
mod source;

pub use kconfig::{Dropped, KconfigError, Request};
pub use source::{build_from_source, SourceBuild, SourceError, SourceKernel};

pub(crate) use source::source_key;

/// The request for the guest kernel (`resources/kernel/guest.config`).
pub const GUEST_CONFIG: &str = include_str!("../../../../resources/kernel/guest.config");
/// The request for the kernel of the nested test machine (`resources/kernel/testbed.config`).
pub const TESTBED_CONFIG: &str = include_str!("../../../../resources/kernel/testbed.config");

#[cfg(test)]
mod tests;
