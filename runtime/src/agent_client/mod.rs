//! The host's side of the channel to the guest's agent: typed calls with deadlines, events, standard streams.
//!
//! A [`Session`] is one control connection. It is made from the connection that the agent pushes when it is ready
//! ([`Session::accept`]) or by connecting to the agent ([`Session::connect`]); either way both sides compare
//! [`hutch_agent_proto::PROTOCOL_VERSION`] first. Any thread may call; one thread per session reads.
//!
//! ```text
//!  caller ── call(request, deadline) ──▶ frame with id ──▶ agent
//!    ▲                                                       │
//!    └─ table of pending ids ◀── reader thread ◀── replies in any order, events
//! ```
//!
//! A session is alive until its stream ends, breaks the protocol, carries more than an honest agent sends (`quota`), or
//! a call's deadline passes without an answer.
//! From then on it is dead: everything pending and everything later fails at once with the same cause (P-205).
//!
//! Bulk bytes never travel on a session: [`Session::open_stream`] opens a connection of its own for each.

mod calls;
mod connector;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod quota;
mod session;
#[cfg(test)]
mod tests;
mod text;

pub use calls::NewContainer;
pub use connector::Connector;
pub(crate) use error::stream_name;
pub use error::{AgentError, ChannelDeath};
pub use session::{open_stream, Session};
pub use text::printable;
