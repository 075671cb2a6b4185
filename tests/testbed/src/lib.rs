//! What the two halves of the testbed agree on. The testbed is an emulated machine with a true `/dev/kvm`, used where the
//! host's own cannot run a stock guest. The host half (`hutch-testbed-host`) starts it; the guest half (`testbed-init`,
//! this package's binary) is its pid 1.
//!
//! * [`Job`]: the command to run, handed over as one file of the initramfs.
//! * [`Frame`]: everything that flows while it runs, over one virtio-serial port named [`PORT`].

#![forbid(unsafe_code)]

mod frame;
mod job;

pub use frame::{Frame, FrameError, MAX_DATA};
pub use job::{Job, JobError, Share};

/// Name of the virtio-serial port that carries frames.
pub const PORT: &str = "testbed";

/// virtio-fs tag of the host's root directory.
pub const HOST_TAG: &str = "host";

/// The job's file in the initramfs.
pub const JOB_FILE: &str = "/job";

/// Directory of the initramfs with kernel modules, and in it `order`: one file name per line, dependencies first.
pub const MODULE_DIR: &str = "/modules";

/// Environment variable that is set for commands that run in the testbed.
pub const MARKER: &str = "HUTCH_TESTBED";
