//! The way to the agent's port.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Opens connections to the agent. In the product these are vsock connections, of this process's machine or through
/// the process that holds it; tests use socket pairs.
pub trait Connector: Send + Sync {
    /// A new connection to the agent's port; nothing has been sent on it.
    ///
    /// # Errors
    /// `TimedOut` if the guest does not accept in time, `ConnectionRefused` if nobody listens there.
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream>;
}

/// So is any function that does this.
impl<F: Fn(Duration) -> io::Result<UnixStream> + Send + Sync> Connector for F {
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        self(timeout)
    }
}
