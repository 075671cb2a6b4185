//! The hutch virtual machine monitor: a KVM machine with virtio devices, built for booting Linux fast.
//!
//! [`Machine::build`] builds a machine from a [`MachineConfig`]; `builder.rs` lists the steps. The owner starts it, waits
//! for its [`MachineExit`], and drops it.
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | the configuration of a machine |
//! | [`confine`] | what the threads of a machine may still do once the guest runs |
//! | `builder`, `error` | from configuration to machine, step by step; why that failed |
//! | `machine`, `run_control` | the owner's view: start, pause, stop, wait, inspect |
//! | `driver`, `state`, `exit` | data that the threads share; the states of a machine; why it ended |
//! | `vcpu`, `vcpus` | vCPU threads with the loop that runs the guest; the vCPUs of a machine |
//! | [`hv`], [`probe`] | the backend to KVM and its fake; the probe of this host's KVM |
//! | `memory`, `pluggable_ram`, [`footprint`] | guest memory; its pluggable part; other resident memory |
//! | `boot` | kernel, initrd, command line, entry protocols |
//! | [`arch`] | x86-64: layout, ACPI, CPUID, registers |
//! | `virtio`, `attach` | devices, connected to buses, interrupts and queue notifications |
//! | `console`, `console_stream`, `marks`, [`counters`], `power` | the guest's output, boot marks, exits, and power requests |
//! | `sync`, `testing` | one policy for locks; helpers of tests |

#![deny(unsafe_code)]

pub mod arch;
mod attach;
mod boot;
mod builder;
pub mod config;
pub mod confine;
mod console;
mod console_stream;
pub mod counters;
mod driver;
mod error;
mod exit;
pub mod footprint;
pub mod hv;
mod machine;
#[cfg(test)]
mod machine_tests;
mod marks;
mod memory;
mod pluggable_ram;
mod power;
pub mod probe;
mod run_control;
mod state;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vcpu;
mod vcpus;
mod virtio;

pub use config::MachineConfig;
pub use confine::Confinement;
pub use counters::Counters;
pub use driver::MachineError;
pub use error::BuildError;
pub use exit::MachineExit;
pub use hutch_devices::virtio::block::{open_image, BlockError, BlockSlot};
pub use hutch_devices::virtio::mem::MemHandle;
pub use hutch_devices::virtio::rng::fill_random;
pub use machine::{Machine, Stopper};
pub use marks::{now_ns, Mark};
