//! The virtio-fs device (VIRTIO 1.2, 5.11): identity, configuration space, and the pool of threads of its driver.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use super::config::{FsDeviceConfig, FsError, TAG_MAX};
use super::root::ShareRoot;
use super::share::ShareFs;
use super::worker::{Pool, QUEUES};
use crate::virtio::device::{config_bytes, RING_FEATURES};
use crate::virtio::{ActivateError, Activation, DeviceQueue, VirtioDevice};

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
}

impl Fs {
    /// Opens the directory, but does not read it.
    pub fn new(config: FsDeviceConfig) -> Result<Self, FsError> {
        let space = config_space(&config.tag)?;
        let root = ShareRoot::open(&config)?;
        Ok(Self { config, root, space, pool: None })
    }

    /// Whether the share has a read-only mount of its own, so that the kernel refuses changes in addition to the
    /// device's own check. Needs CAP_SYS_ADMIN.
    pub fn is_read_only_mount(&self) -> bool {
        self.root.is_read_only_mount()
    }

    /// The threads and everything that they own.
    #[cfg(test)]
    pub(super) fn pool(&self) -> std::sync::Weak<Pool> {
        self.pool.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    fn start(&self, activation: Activation) -> Result<Arc<Pool>, ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut take = |index| queues.next().flatten().ok_or(ActivateError::MissingQueue(index));
        let queues: [DeviceQueue; QUEUES] = [take(0)?, take(1)?];
        let host = |what| move |source| ActivateError::Host { what, source };
        let root = self.root.try_clone().map_err(host("opening the shared directory again"))?;
        let share = ShareFs::new(root, &self.config).map_err(host("serving the shared directory"))?;
        Pool::start(&self.config.id, activation.mem, activation.interrupt, queues, share)
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
        self.deactivate();
        self.pool = Some(self.start(activation)?);
        Ok(())
    }

    fn deactivate(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.stop();
        }
    }

    fn pause(&mut self) {
        if let Some(pool) = &self.pool {
            pool.pause();
        }
    }

    fn resume(&mut self) {
        if let Some(pool) = &self.pool {
            pool.resume();
        }
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.deactivate();
    }
}
