//! The host's side: how much memory the guest shall have, and how much it has. Used from any thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::blocks::{Blocks, Discard, Region, BLOCK_SIZE};
use super::request::{MemRequest, MemResponse};
use crate::virtio::DeviceInterrupt;

/// The host's side of a memory device.
#[derive(Clone)]
pub struct MemHandle(Arc<MemShared>);

impl MemHandle {
    pub(super) fn new(shared: Arc<MemShared>) -> Self {
        Self(shared)
    }

    /// Most bytes that can be plugged.
    pub fn capacity(&self) -> u64 {
        self.0.lock().blocks.region().size
    }

    /// Asks the guest to have `bytes` of this memory, in whole blocks and within the capacity; returns how many that
    /// are. May be called at any time: the driver finds the wish when it comes. Taking memory away is up to the guest.
    pub fn request(&self, bytes: u64) -> u64 {
        let mut state = self.0.lock();
        let before = state.blocks.requested();
        let requested = state.blocks.request(bytes);
        if requested != before {
            state.announce();
        }
        drop(state);
        self.0.changed.notify_all();
        requested
    }

    /// Bytes that were asked for last.
    pub fn requested(&self) -> u64 {
        self.0.lock().blocks.requested()
    }

    /// Bytes that the guest has now.
    pub fn plugged(&self) -> u64 {
        self.0.lock().blocks.plugged()
    }

    /// Calls `job` whenever the guest has come to have as much as was asked for, on the device's thread. It must return
    /// soon.
    pub fn on_reached(&self, job: Box<dyn Fn() + Send + Sync>) {
        *self.0.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
    }

    /// Waits until the guest has as much as was asked for, at most `timeout`; returns whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        let waiting = |state: &mut State| state.blocks.plugged() != state.blocks.requested();
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), timeout, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// What handle, device and worker share.
pub(super) struct MemShared {
    state: Mutex<State>,
    changed: Condvar,
    reached: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

struct State {
    blocks: Blocks,
    /// While there is a driver.
    interrupt: Option<Arc<DeviceInterrupt>>,
}

impl State {
    /// The driver, if there is one, is to look at the wish again.
    fn announce(&self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.signal_config();
        }
    }
}

impl MemShared {
    pub(super) fn new(region: Region) -> Self {
        let state = Mutex::new(State { blocks: Blocks::new(region), interrupt: None });
        Self { state, changed: Condvar::new(), reached: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two assignments to the blocks is a bug, and the numbers stay within their bounds.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver is there, which may have read an older wish; or it is gone, and blocks stay as they are (5.15.6.1).
    pub(super) fn connect(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        let mut state = self.lock();
        state.interrupt = interrupt;
        if state.blocks.requested() != state.blocks.plugged() {
            state.announce();
        }
    }

    pub(super) fn serve(&self, request: MemRequest, discard: &dyn Discard) -> MemResponse {
        let mut state = self.lock();
        let before = state.blocks.plugged();
        let answer = state.blocks.serve(request, discard);
        let (plugged, requested) = (state.blocks.plugged(), state.blocks.requested());
        drop(state);
        if plugged != before && plugged == requested {
            self.changed.notify_all();
            if let Some(job) = &*self.reached.lock().unwrap_or_else(PoisonError::into_inner) {
                job();
            }
        }
        answer
    }

    /// Configuration space (5.15.4): `block_size`, `node_id` and padding, `addr`, `region_size`, `usable_region_size`,
    /// `plugged_size`, `requested_size`.
    pub(super) fn config(&self) -> [u8; 56] {
        let state = self.lock();
        let Region { addr, size } = state.blocks.region();
        let fields = [BLOCK_SIZE, 0, addr, size, size, state.blocks.plugged(), state.blocks.requested()];
        let mut bytes = [0; 56];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}
