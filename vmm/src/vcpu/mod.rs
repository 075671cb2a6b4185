//! vCPUs: a thread each ([`thread`]) with the loop that runs the guest ([`run_loop`]), and the handle through which
//! other threads command it ([`handle`]).

pub mod handle;
pub mod run_loop;
pub mod thread;

pub use handle::VcpuHandle;
pub use run_loop::{IoSpace, VcpuExitReason};
pub use thread::VcpuEvents;
