//! Bind mounts on the host: the product's side of [`HostMounts`](crate::backend::HostMounts).

mod disk;
mod host;
pub(crate) mod table;
#[cfg(test)]
mod tests;

pub use disk::file_system_of;
pub use host::BindMounts;
