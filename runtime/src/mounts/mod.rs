//! Bind mounts on the host: the product's side of [`HostMounts`](crate::seam::HostMounts).

mod host;
mod table;
#[cfg(test)]
mod tests;

pub use host::BindMounts;
