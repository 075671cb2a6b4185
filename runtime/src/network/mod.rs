//! What connects a pod's machine to the world.

mod endpoint;

pub(crate) use endpoint::{guest_network, known_endpoints};
pub use endpoint::{Endpoint, EndpointKind};
