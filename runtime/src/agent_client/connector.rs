//! Connections to the agent's port.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Opens connections to the agent. The product uses vsock connections, of this process's machine or through the process
/// that holds the machine; tests use socket pairs.
pub trait Connector: Send + Sync {
    /// Opens a connection to the agent's port; no bytes have been sent on it.
    ///
    /// # Errors
    /// `TimedOut` if the guest does not accept in time, `ConnectionRefused` if no program listens on the port.
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream>;
}

/// Any such function is a connector.
impl<F: Fn(Duration) -> io::Result<UnixStream> + Send + Sync> Connector for F {
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        self(timeout)
    }
}
