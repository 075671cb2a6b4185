//! vCPUs: a thread each ([`thread`]) with the loop that runs the guest ([`run_loop`]), and the handle by which the
//! machine reaches it ([`handle`]).

pub mod handle;
pub mod run_loop;
pub mod thread;

pub use handle::VcpuHandle;
pub use run_loop::{GuestEnd, IoSpace};
pub use thread::VcpuEvents;
