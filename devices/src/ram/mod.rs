//! Guest memory as devices use it. A part of it can be pluggable: blocks that the guest may use only while they are
//! plugged in. Device threads keep the blocks that they use from being unplugged:
//!
//! ```text
//!   PlugMap    which blocks are plugged in, and the number of users of each
//!   Pins       the blocks that a queue or a request uses: they stay plugged in until the pins are dropped
//!   RamView    guest memory for code that reads addresses from guest memory: pins every block that it touches
//! ```
//!
//! Memory that is not plugged in has no access rights in this process, so a device must not touch it: a copy would end the
//! process. A machine without pluggable memory pays nothing for this.

mod plug_map;
mod view;

use std::ops::Deref;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

pub use self::plug_map::{NotPlugged, Pins, PlugMap};
pub use self::view::RamView;

/// Guest memory as devices use it: shared and cheap to clone. `vm-memory` checks the bounds of every access. An address
/// that came from the guest must be pinned first, or accessed through [`Self::view`].
#[derive(Clone, Debug)]
pub struct GuestRam {
    mem: Arc<GuestMemoryMmap<()>>,
    pluggable: Option<Arc<PlugMap>>,
}

impl GuestRam {
    /// Memory that the guest may use as a whole.
    pub fn new(mem: GuestMemoryMmap<()>) -> Self {
        Self { mem: Arc::new(mem), pluggable: None }
    }

    /// Memory with a pluggable region, which is one of the regions of `mem`.
    pub fn with_pluggable(mem: GuestMemoryMmap<()>, pluggable: Arc<PlugMap>) -> Self {
        Self { mem: Arc::new(mem), pluggable: Some(pluggable) }
    }

    /// The state of the pluggable region, if there is one.
    pub fn pluggable(&self) -> Option<&Arc<PlugMap>> {
        self.pluggable.as_ref()
    }

    /// Adds the pluggable blocks in `len` bytes at `addr` to `pins`. Does not check that the range is in guest memory.
    ///
    /// # Errors
    /// A part of the range is not plugged in.
    pub fn pin(&self, addr: GuestAddress, len: u64, pins: &mut Pins) -> Result<(), NotPlugged> {
        match &self.pluggable {
            None => Ok(()),
            Some(map) => pins.add(map, addr.0, len),
        }
    }

    /// The memory for code that takes addresses from guest memory by itself.
    pub fn view(&self) -> RamView<'_> {
        RamView::new(self)
    }
}

impl Deref for GuestRam {
    type Target = GuestMemoryMmap<()>;

    fn deref(&self) -> &Self::Target {
        &self.mem
    }
}

impl From<GuestMemoryMmap<()>> for GuestRam {
    fn from(mem: GuestMemoryMmap<()>) -> Self {
        Self::new(mem)
    }
}
