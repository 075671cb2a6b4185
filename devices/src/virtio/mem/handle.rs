//! The host's side: sets how much memory the guest should have, and reports how much it has. Used from any thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::blocks::{Blocks, RegionMemory, BLOCK_SIZE};
use super::request::{MemRequest, MemResponse};
use crate::ram::PlugMap;
use crate::virtio::DeviceInterrupt;

/// The host's side of a memory device.
#[derive(Clone)]
pub struct MemHandle(Arc<MemShared>);

impl MemHandle {
    pub(super) fn new(shared: Arc<MemShared>) -> Self {
        Self(shared)
    }

    /// Largest number of bytes that can be plugged.
    pub fn capacity(&self) -> u64 {
        self.0.lock().blocks.region().1
    }

    /// Asks the guest to plug or unplug blocks until `bytes` are plugged, rounded down to whole blocks and limited to
    /// the capacity; returns that number. May be called at any time: a later driver finds the request. The guest
    /// decides whether it gives memory back.
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

    /// Bytes that the host asked for last.
    pub fn requested(&self) -> u64 {
        self.0.lock().blocks.requested()
    }

    /// Bytes that are plugged now.
    pub fn plugged(&self) -> u64 {
        self.0.lock().blocks.plugged()
    }

    /// Calls `job` on the device's thread whenever the plugged size reaches the requested size. It must return soon.
    pub fn on_reached(&self, job: Box<dyn Fn() + Send + Sync>) {
        *self.0.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
    }

    /// Waits until the plugged size equals the requested size. False after `timeout`, or if the host could not take the
    /// memory back: the requested size is then what the guest keeps.
    pub fn wait(&self, timeout: Duration) -> bool {
        let waiting = |state: &mut State| state.blocks.plugged() != state.blocks.requested();
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), timeout, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !waiting(&mut state) && !state.blocks.withdrawn()
    }
}

/// State that the handle, the device and its worker share.
pub(super) struct MemShared {
    state: Mutex<State>,
    changed: Condvar,
    reached: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

struct State {
    blocks: Blocks,
    /// `Some` while there is a driver.
    interrupt: Option<Arc<DeviceInterrupt>>,
}

impl State {
    /// Interrupts the driver, if there is one, so that it reads the requested size again.
    fn announce(&self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.signal_config();
        }
    }
}

impl MemShared {
    pub(super) fn new(map: Arc<PlugMap>) -> Self {
        let state = Mutex::new(State { blocks: Blocks::new(map), interrupt: None });
        Self { state, changed: Condvar::new(), reached: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two assignments to the blocks is a bug, but the numbers stay within their bounds.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the interrupt of a new driver and interrupts it, as it may have read an older requested size; or `None`
    /// when the driver is gone. Blocks keep their state (5.15.6.1).
    pub(super) fn connect(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        let mut state = self.lock();
        state.interrupt = interrupt;
        if state.blocks.requested() != state.blocks.plugged() {
            state.announce();
        }
    }

    pub(super) fn serve(&self, request: MemRequest, memory: &dyn RegionMemory) -> MemResponse {
        let mut state = self.lock();
        let (before, withdrawn) = (state.blocks.plugged(), state.blocks.withdrawn());
        let answer = state.blocks.serve(request, memory);
        if state.blocks.withdrawn() && !withdrawn {
            // The driver stops asking, and the host stops waiting.
            state.announce();
            self.changed.notify_all();
        }
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
        let (addr, size) = state.blocks.region();
        let fields = [BLOCK_SIZE, 0, addr, size, size, state.blocks.plugged(), state.blocks.requested()];
        let mut bytes = [0; 56];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}
