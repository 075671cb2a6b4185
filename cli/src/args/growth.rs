//! The `--memory-growth` option.

use hutch_vmm::config::GROWTH_THRESHOLD_MIB;

/// Whether a machine boots with a part of its memory and gets the rest when its agent is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MemoryGrowth {
    /// Grow if the kernel is hutch's own and the memory is large enough to gain time
    #[default]
    Auto,
    /// Always grow; the kernel needs CONFIG_VIRTIO_MEM and must bring memory online by itself
    On,
    /// Boot with all memory
    Off,
}

impl MemoryGrowth {
    /// The memory in MiB up to which a machine boots with all of it; `None`: it does not grow. `can_grow`: the guest's
    /// kernel is known to support growth.
    pub fn beyond_mib(self, can_grow: bool) -> Option<u64> {
        match self {
            Self::Auto => can_grow.then_some(GROWTH_THRESHOLD_MIB),
            Self::On => Some(0),
            Self::Off => None,
        }
    }
}
