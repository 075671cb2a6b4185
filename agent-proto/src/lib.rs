//! The protocol between the hutch runtime on the host and the agent in the guest: plain data and framing, no I/O of its
//! own.
//!
//! # Connections
//!
//! All traffic runs over vsock. The agent listens on [`AGENT_PORT`] of the guest. Once, when it is ready, it also
//! connects to [`HOST_PORT`] of the host (CID 2). From that push the host learns, without polling, that the guest is
//! up.
//!
//! The side that opens a connection sends one [`Open`] frame first:
//!
//! - [`Open::Control`]: both sides then send [`Hello`]; afterwards the host sends [`HostFrame`]s and the agent
//!   answers with [`AgentFrame`]s. Replies may come in any order; they carry the request's id. Any number of control
//!   connections may be open at once, and events go to all of them.
//! - [`Open::Stream`]: the bytes of one standard stream of one process, unframed, in one direction: host to guest for
//!   stdin (shutdown of the write side is EOF for the process), guest to host for stdout and stderr (EOF when the
//!   last writer in the guest has closed). A terminal uses one stream for both directions. Back-pressure is vsock's.
//!   The host may open a stream as soon as it has sent the request that starts the process: the agent waits a few
//!   seconds for a process that it does not know yet. The agent closes a stream that it refuses (unknown process, no
//!   such stream, opened before) at once and gives the reason in an [`Event::Log`]. If the host closes the stream of an
//!   output, later writes of the process fail with `EPIPE`. If it closes a terminal's stream, the terminal hangs up. If
//!   the host shuts down its write side only, the input ends and the output goes on.
//!
//! # Versions
//!
//! Both sides compare [`PROTOCOL_VERSION`] in [`Hello`] for equality. They ignore unknown fields. The agent answers an
//! unknown request with [`RemoteErrorKind::Unsupported`] ([`parse_request`]); a payload without a request id ends the
//! connection.
#![forbid(unsafe_code)]

mod deadline;
mod error;
mod frame;
mod message;
mod request;
mod spec;

pub use deadline::Deadline;
pub use error::{error_chain, RemoteError, RemoteErrorKind};
pub use frame::{encode_frame, read_frame, read_payload, write_frame, FrameError, MAX_FRAME};
pub use message::*;
pub use request::{is_token, parse_request, BadRequest, MAX_TOKEN};
pub use spec::*;

/// Version of the protocol. Host and agent must have the same.
pub const PROTOCOL_VERSION: u32 = 2;
/// vsock port in the guest on which the agent accepts connections.
pub const AGENT_PORT: u32 = 1024;
/// vsock port of the host to which the agent connects once when it is ready.
pub const HOST_PORT: u32 = 1024;
/// Directory of the guest below which the agent mounts root disks of containers, each in a directory named after the
/// container.
pub const GUEST_DISK_DIR: &str = "/run/hutch/disks";
/// Directory of the guest below which the agent mounts block volumes: a directory for each container, and in it one for
/// each volume.
pub const GUEST_VOLUME_DIR: &str = "/run/hutch/block-volumes";
/// vsock CID of the host (VIRTIO 1.2, 5.10.4; `VMADDR_CID_HOST`).
pub const HOST_CID: u32 = 2;
