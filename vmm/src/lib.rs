//! The hutch virtual machine monitor: a KVM machine with virtio devices, built for booting Linux fast.
//!
//! [`Machine::build`] makes a machine of a [`MachineConfig`]; [`builder`] lists the steps. The owner starts it, waits
//! for its [`MachineExit`], and drops it.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | what a machine shall be |
//! | [`builder`] | from configuration to machine, step by step |
//! | [`machine`] | the owner's view: start, pause, stop, wait, look |
//! | [`driver`], [`state`] | what threads share; the states of a machine |
//! | [`vcpu`] | vCPU threads and the loop that runs the guest |
//! | [`hv`] | the backend to KVM, its fake, and the probe of what KVM is here |
//! | [`memory`], [`footprint`] | guest memory; what else is resident |
//! | [`boot`] | kernel, initrd, command line, entry protocols |
//! | [`arch`] | x86-64: layout, ACPI, CPUID, registers |
//! | [`attach`] | devices onto buses, interrupts and doorbells |
//! | [`console`], [`marks`], [`counters`], [`power`] | what a guest says and does |

#![deny(unsafe_code)]

pub mod arch;
pub mod attach;
pub mod boot;
pub mod builder;
pub mod config;
pub mod console;
pub mod counters;
pub mod driver;
pub mod exit;
pub mod footprint;
mod gate;
pub mod hv;
pub mod machine;
pub mod marks;
pub mod memory;
pub mod power;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vcpu;
mod vcpus;
mod virtio;

pub use builder::BuildError;
pub use config::MachineConfig;
pub use counters::Counters;
pub use driver::MachineError;
pub use exit::MachineExit;
pub use hutch_devices::virtio::block::BlockSlot;
pub use hutch_devices::virtio::mem::MemHandle;
pub use machine::{Machine, Stopper};
pub use marks::Mark;
