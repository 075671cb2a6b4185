//! Why a machine could not be built.

use std::io;
use std::path::PathBuf;

use crate::attach::AttachError;
use crate::boot::cmdline::CmdlineError;
use crate::boot::initrd::InitrdError;
use crate::boot::kernel::KernelError;
use crate::config::ConfigError;
use crate::hv::HvError;
use crate::memory::MemoryError;
use crate::probe::KvmSupport;

/// The first thing that is wrong with the configuration, its files or the host.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration contradicts itself or exceeds a limit of hutch.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This host's KVM cannot run the guest.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Kvm(KvmSupport),
    /// The configuration asks for more vCPUs than this host's KVM has.
    #[error("{asked} vCPUs are more than the {max} that KVM offers on this host; ask for fewer")]
    TooManyVcpus {
        /// vCPUs that the machine may have, now or later.
        asked: u32,
        /// The host's limit.
        max: u32,
    },
    /// The kernel image cannot be read or booted, or does not fit.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd cannot be read or unpacked, or does not fit.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// A kernel parameter is malformed, or the command line is too long.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The host refuses the guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The console file cannot be opened.
    #[error("cannot write console file {path}; give a path in a writable directory")]
    Console {
        /// Path of the console file.
        path: PathBuf,
        /// Error of `open(2)`.
        source: io::Error,
    },
    /// A device cannot be created or connected.
    #[error(transparent)]
    Device(#[from] AttachError),
    /// A KVM call failed.
    #[error("a KVM call failed; run `hutch doctor` to find out why")]
    Hypervisor(#[from] HvError),
    /// The thread of a vCPU could not be started.
    #[error("cannot start the thread of a vCPU; see `ulimit -u` and the pids limit of the cgroup")]
    Thread(#[source] io::Error),
}
