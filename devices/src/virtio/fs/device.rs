//! The virtio-fs device (VIRTIO 1.2, 5.11): identity, configuration space, and the pool of threads of its driver.

use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use super::config::{FsDeviceConfig, FsError, TAG_MAX};
use super::limit::Budget;
use super::root::ShareRoot;
use super::server::Server;
use super::sys;
use super::worker::{FsWorker, Pool, QUEUES};
use crate::virtio::device::{config_bytes, RING_FEATURES};
use crate::virtio::{ActivateError, Activation, DeviceQueue, VirtioDevice};
use crate::worker::{stop_all, WorkerError, WorkerHandle, STOP_TIMEOUT};

/// Sizes of the high-priority and the request queue. A request of 1 MiB has more than 256 descriptors, unless they are
/// indirect.
const QUEUE_SIZES: [u16; QUEUES] = [128, 1024];
/// `num_request_queues` (5.11.4).
const REQUEST_QUEUES: u32 = 1;

/// A directory of the host for the guest to mount.
pub struct Fs {
    config: FsDeviceConfig,
    root: ShareRoot,
    space: [u8; TAG_MAX + 4],
    pool: Option<Arc<Pool>>,
    /// Threads of former sessions that have not ended.
    left_behind: Vec<WorkerHandle<FsWorker>>,
    /// Time that the device waits for its threads.
    timeout: Duration,
    /// The number of descriptors that the server may keep open, instead of its part of the process's.
    #[cfg(test)]
    budget: Option<usize>,
}

impl Fs {
    /// Opens the directory, but does not read it.
    pub fn new(config: FsDeviceConfig) -> Result<Self, FsError> {
        let space = config_space(&config.tag)?;
        let root = ShareRoot::open(&config)?;
        Ok(Self {
            config,
            root,
            space,
            pool: None,
            left_behind: Vec::new(),
            timeout: STOP_TIMEOUT,
            #[cfg(test)]
            budget: None,
        })
    }

    /// Whether the share has a read-only mount of its own, so that the kernel refuses changes in addition to the
    /// device's own check. Needs CAP_SYS_ADMIN.
    pub fn is_read_only_mount(&self) -> bool {
        self.root.is_read_only_mount()
    }

    /// Sets the time that the device waits for its threads, for tests.
    #[cfg(test)]
    pub(super) fn set_stop_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sets the number of descriptors that the server may keep open, for tests.
    #[cfg(test)]
    pub(super) fn set_budget(&mut self, descriptors: usize) {
        self.budget = Some(descriptors);
    }

    /// The threads and everything that they own.
    #[cfg(test)]
    pub(super) fn pool(&self) -> std::sync::Weak<Pool> {
        self.pool.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    fn start(&self, mut activation: Activation) -> Result<Arc<Pool>, ActivateError> {
        let mut queues = std::mem::take(&mut activation.queues).into_iter();
        let mut take = |index| queues.next().flatten().ok_or(ActivateError::MissingQueue(index));
        let queues: [DeviceQueue; QUEUES] = [take(0)?, take(1)?];
        let host = |what| move |source| ActivateError::Host { what, source };
        let root = self.root.try_clone().map_err(host("opening the shared directory again"))?;
        let limit = sys::open_files_limit();
        let budget = Budget::new(limit);
        #[cfg(test)]
        let budget = self.budget.map_or(budget, Budget::alone);
        let server = Server::new(root, &self.config, limit, budget).map_err(host("serving the shared directory"))?;
        let Activation { mem, interrupt, threads, .. } = activation;
        Pool::start(&self.config.id, self.timeout, threads, mem, interrupt, queues, server)
            .map_err(host("starting the threads of a shared directory"))
    }
}

/// Configuration space: the tag, padded with NUL, and the number of request queues.
fn config_space(tag: &str) -> Result<[u8; TAG_MAX + 4], FsError> {
    let mut space = [0; TAG_MAX + 4];
    let bytes = tag.as_bytes();
    let (name, queues) = space.split_at_mut(TAG_MAX);
    let place = name.get_mut(..bytes.len()).filter(|_| !bytes.is_empty() && !bytes.contains(&0));
    place.ok_or_else(|| FsError::Tag { tag: tag.to_owned() })?.copy_from_slice(bytes);
    queues.copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
    Ok(space)
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn name(&self) -> &str {
        &self.config.id
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.deactivate()?;
        self.pool = Some(self.start(activation)?);
        Ok(())
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        if let Some(pool) = self.pool.take() {
            self.left_behind.extend(pool.stop());
        }
        // This does not wait any more.
        stop_all(&mut self.left_behind)
    }

    fn pause(&mut self) -> Result<(), WorkerError> {
        self.pool.as_ref().map_or(Ok(()), |pool| pool.pause())
    }

    fn resume(&mut self) {
        if let Some(pool) = &self.pool {
            pool.resume();
        }
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        if let Err(error) = self.deactivate() {
            log::error!("{error}");
        }
    }
}
