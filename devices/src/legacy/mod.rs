//! Port I/O devices of a PC, as few as a guest needs. Called from vCPU threads.

pub mod i8042;
pub mod mark;
pub mod serial;

pub use i8042::I8042;
pub use mark::MarkPort;
pub use serial::Serial;
