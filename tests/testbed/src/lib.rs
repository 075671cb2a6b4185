//! Protocol between the two halves of the testbed. The testbed is an emulated machine with a real `/dev/kvm`, for hosts whose
//! own KVM cannot run a stock guest. The host half (`hutch-testbed-host`) starts it; the guest half (`testbed-init`, this
//! package's binary) is its pid 1.
//!
//! * [`Job`]: the command to run, one file of the initramfs.
//! * [`Frame`]: all messages while it runs, over one virtio-serial port named [`PORT`].

mod frame;
mod job;

pub use frame::{Frame, FrameError, MAX_DATA};
pub use job::{Job, JobError, Share};

/// Name of the virtio-serial port that carries frames.
pub const PORT: &str = "testbed";

/// virtio-fs tag of the host's root directory.
pub const HOST_TAG: &str = "host";

/// Where the testbed shows the files that it has made or changed itself. All others below its `/` are the host's, which may
/// change at any time.
pub const OWN_FILES: &str = "/layer";

/// The job's file in the initramfs.
pub const JOB_FILE: &str = "/job";

/// Directory of the initramfs with kernel modules and the file `order`: one file name per line, dependencies first.
pub const MODULE_DIR: &str = "/modules";

/// Environment variable that is set for commands that run in the testbed.
pub const MARKER: &str = "HUTCH_TESTBED";

/// Whether this process runs in the testbed.
pub fn in_testbed() -> bool {
    std::env::var_os(MARKER).is_some_and(|value| value == "1")
}
