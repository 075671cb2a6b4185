//! The network of a pod's machine: namespaces, the interfaces in them, and the taps that connect them to the guest.

mod endpoint;
mod namespace;
mod nat;
mod tap;
mod tc;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::{guest_network, known_endpoints};
pub use endpoint::{Endpoint, EndpointKind};
pub use tc::TcNetwork;
