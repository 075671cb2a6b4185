//! Kernels compiled from Debian's source package, from a request that is laid over `make allnoconfig`.

mod kconfig;
mod source;

pub use kconfig::{Dropped, KconfigError, KernelRequest};
pub use source::{build_from_source, SourceBuild, SourceError, SourceKernel};

pub(crate) use source::source_key;

/// The request for the guest kernel (`resources/kernel/guest.config`).
pub const GUEST_CONFIG: &str = include_str!("../../../../resources/kernel/guest.config");

#[cfg(test)]
mod tests;
