//! The network device: its features, its configuration space and its worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::epoll::EventSet;

use super::backend::{is_gone, NetBackend};
use super::header;
use super::receive::Receiver;
use super::tap::Tap;
use super::transmit::Transmitter;
use super::worker::NetWorker;
use crate::threads::ThreadKind;
use crate::virtio::device::{config_bytes, RING_FEATURES};
use crate::virtio::{ActivateError, Activation, DeviceQueue, VirtioDevice};
use crate::worker::{WorkerError, WorkerSlot};

/// Sizes of the receive and the transmit queue.
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Smallest MTU of IPv4 (5.1.4.1).
const MIN_MTU: u16 = 68;

/// Options that a network device refuses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetError {
    /// The address is a group address or all zeroes.
    #[error(
        "network device {id}: {mac:02x?} is not the address of a host: give one whose first byte is even, such as 02:…"
    )]
    Mac {
        /// The device's name.
        id: String,
        /// The refused address.
        mac: [u8; 6],
    },
    /// The MTU is too small for IPv4.
    #[error("network device {id}: an MTU of {mtu} is too small: give at least 68")]
    Mtu {
        /// The device's name.
        id: String,
        /// The refused MTU, in bytes.
        mtu: u16,
    },
}

/// The options of a network device.
#[derive(Debug)]
pub struct NetDeviceConfig {
    /// Name in logs and of the device's thread, such as `net0`.
    pub id: String,
    /// The interface of the host.
    pub tap: Tap,
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// The interface's MTU in bytes, if it differs from 1500.
    pub mtu: Option<u16>,
}

/// A network device.
pub struct Net {
    name: String,
    link: Arc<dyn NetBackend>,
    up: Arc<AtomicBool>,
    mac: [u8; 6],
    mtu: Option<u16>,
    worker: WorkerSlot<NetWorker>,
}

impl Net {
    /// A device on a tap interface.
    pub fn new(config: NetDeviceConfig) -> Result<Self, NetError> {
        Self::with_backend(config.id, Arc::new(config.tap), config.mac, config.mtu)
    }

    /// A device on any backend.
    pub fn with_backend(
        id: String,
        link: Arc<dyn NetBackend>,
        mac: [u8; 6],
        mtu: Option<u16>,
    ) -> Result<Self, NetError> {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(NetError::Mac { id, mac });
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu { id, mtu });
        }
        Ok(Self { name: id, link, up: Arc::new(AtomicBool::new(true)), mac, mtu, worker: WorkerSlot::new() })
    }

    /// `struct virtio_net_config` (5.1.4), up to the last field that is offered.
    fn config(&self) -> [u8; 12] {
        let [a, b, c, d, e, f] = self.mac;
        let status = if self.up.load(Ordering::SeqCst) { VIRTIO_NET_S_LINK_UP } else { 0 };
        let [status_low, status_high, ..] = status.to_le_bytes();
        let [mtu_low, mtu_high] = self.mtu.unwrap_or(0).to_le_bytes();
        [a, b, c, d, e, f, status_low, status_high, 1, 0, mtu_low, mtu_high]
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let bits = [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
        ];
        let mtu = if self.mtu.is_some() { 1 << VIRTIO_NET_F_MTU } else { 0 };
        bits.iter().fold(RING_FEATURES | mtu, |all, bit| all | 1 << bit)
    }

    fn accepts_features(&self, features: u64) -> bool {
        header::consistent(features)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.deactivate()?;
        let Activation { mem, queues, interrupt, features, threads } = activation;
        let mut queues = queues.into_iter();
        let mut queue = |index| queues.next().flatten().ok_or(ActivateError::MissingQueue(index));
        let (receive, transmit): (DeviceQueue, DeviceQueue) = (queue(0)?, queue(1)?);
        // A new driver gets a new chance: the interface may have failed for a while only. If it is still gone, the first
        // read or write says so.
        self.up.store(true, Ordering::SeqCst);
        match self.link.set_offloads(features) {
            Err(error) if is_gone(&error) => self.up.store(false, Ordering::SeqCst),
            result => {
                result.map_err(|source| ActivateError::Host { what: "setting the tap's offloads", source })?;
            }
        }
        let worker = NetWorker {
            name: self.name.clone(),
            link: self.link.clone(),
            up: self.up.clone(),
            receiver: Receiver::new(self.name.clone(), mem.clone(), receive, features, self.mtu),
            transmitter: Transmitter::new(self.name.clone(), mem, transmit, features),
            interrupt,
            watched: EventSet::IN,
        };
        self.worker
            .start(threads.start(ThreadKind::Network), &self.name, worker)
            .map_err(|source| ActivateError::Host { what: "starting the network device's thread", source })
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        self.worker.stop().map(drop)
    }

    fn pause(&mut self) -> Result<(), WorkerError> {
        self.worker.pause()
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
