//! The port I/O devices of a PC that a guest cannot do without. vCPU threads call them.

pub mod i8042;
pub mod mark;
pub mod serial;

pub use i8042::I8042;
pub use mark::MarkPort;
pub use serial::Serial;
