//! The agent's own log: the kernel's ring (`/dev/kmsg`), so that it appears on the console in order with the
//! kernel's lines and under the same level filter. Outside of a guest: stderr. Any thread.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use nix::sys::stat::{makedev, mknod, Mode, SFlag};

/// Severity; the discriminant is the kernel's log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The guest cannot go on.
    Fatal = 2,
    /// The agent could not do what it was asked for.
    Error = 3,
    /// Unexpected but harmless.
    Warn = 4,
}

impl Level {
    /// The name of the level in [`hutch_agent_proto::Event::Log`].
    pub fn name(self) -> &'static str {
        match self {
            Level::Fatal | Level::Error => "error",
            Level::Warn => "warn",
        }
    }
}

/// Whether lines go to the ring.
static WANTED: AtomicBool = AtomicBool::new(false);
/// The ring, opened for the first line.
static RING: OnceLock<Option<File>> = OnceLock::new();

/// Sends the log to the kernel's ring, or to stderr if the ring cannot be opened.
pub fn use_kernel_ring() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Writes one line.
pub fn write(level: Level, message: impl Display) {
    let ring = WANTED.load(Ordering::Relaxed).then(|| RING.get_or_init(open_ring).as_ref()).flatten();
    // There is no place to report a failure of the log.
    let _ = match ring {
        Some(mut ring) => ring.write_all(format!("<{}>hutch-agent: {message}\n", level as u8).as_bytes()),
        None => std::io::stderr().write_all(format!("hutch-agent: {message}\n").as_bytes()),
    };
}

/// Opens the ring. Before devtmpfs is mounted, a device node of our own serves.
fn open_ring() -> Option<File> {
    let open = |path| OpenOptions::new().write(true).open(path).ok();
    open("/dev/kmsg").or_else(|| {
        let node = "/.hutch-kmsg";
        mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(1, 11)).ok()?;
        let ring = open(node);
        let _ = std::fs::remove_file(node);
        ring
    })
}
