//! What connects a pod's machine to the world.

mod endpoint;
mod namespace;
mod nat;
mod netlink;
mod tap;
mod tc;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::{guest_network, known_endpoints};
pub use endpoint::{Endpoint, EndpointKind};
pub use tc::TcNetwork;
