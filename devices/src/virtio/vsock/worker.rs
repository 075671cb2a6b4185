//! The device's thread: moves packets between the queues and the muxer.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::block_signal;

use super::muxer::Muxer;
use super::packet::{PacketHeader, HEADER_LEN};
use super::rx::RxRing;
use crate::virtio::{Chain, DeviceInterrupt, DeviceQueue, QueueError};
use crate::worker::{Next, Poller, Worker};
use crate::{warn_limited, GuestRam};

/// Packets handled in one go per direction, so that a stop is seen soon.
const BATCH: usize = 256;

const RX_TOKEN: u64 = 0;
const TX_TOKEN: u64 = 1;
const WAKE_TOKEN: u64 = 2;
const HOST_TOKEN: u64 = 3;

/// The inside of the device's thread.
pub(super) struct VsockWorker {
    pub(super) mem: GuestRam,
    pub(super) interrupt: Arc<DeviceInterrupt>,
    pub(super) rx: DeviceQueue,
    pub(super) tx: DeviceQueue,
    pub(super) wake: EventFd,
    pub(super) muxer: Muxer,
}

impl VsockWorker {
    /// Moves what can be moved. An error is the driver's fault, or the kernel's.
    fn round(&mut self) -> Next {
        match self.try_round() {
            Ok(more) => {
                if more {
                    self.tx.notify_self();
                }
                Next::Continue
            }
            Err(error) => {
                warn_limited!("vsock stops until the guest resets it: {error}");
                self.failed();
                Next::Retire
            }
        }
    }

    /// True if a batch ended before the work did.
    fn try_round(&mut self) -> Result<bool, QueueError> {
        let more_packets = self.take_packets()?;
        let more_buffers = self.fill()?;
        self.tx.signal(&self.mem, &self.interrupt)?;
        self.rx.signal(&self.mem, &self.interrupt)?;
        Ok(more_packets || more_buffers)
    }

    /// Guest to host. Always possible: a slow host's bytes are bounded by credit and kept aside.
    fn take_packets(&mut self) -> Result<bool, QueueError> {
        self.tx.disable_notifications(&self.mem)?;
        for _ in 0..BATCH {
            let chain = match self.tx.pop(&self.mem)? {
                Some(chain) => chain,
                None if self.tx.enable_notifications(&self.mem)? => continue,
                None => return Ok(false),
            };
            self.packet(&chain);
            self.tx.complete(&self.mem, chain.head(), 0)?;
        }
        Ok(true)
    }

    fn packet(&mut self, chain: &Chain) {
        let mut reader = chain.reader(&self.mem);
        let mut bytes = [0; HEADER_LEN];
        match reader.read_exact(&mut bytes) {
            Ok(()) => self.muxer.packet(&PacketHeader::parse(&bytes), reader),
            Err(error) => warn_limited!("vsock packet dropped: {error}"),
        }
    }

    /// Host to guest. The driver notifies of new buffers only while packets wait for them.
    fn fill(&mut self) -> Result<bool, QueueError> {
        self.rx.disable_notifications(&self.mem)?;
        let mut budget = BATCH;
        loop {
            let mut ring = RxRing::new(&mut self.rx, &self.mem, budget);
            let more = self.muxer.fill(&mut ring)?;
            budget = ring.budget();
            if more || !self.muxer.has_work() || !self.rx.enable_notifications(&self.mem)? {
                return Ok(more);
            }
        }
    }

    fn host_events(&mut self) {
        if let Err(error) = self.muxer.host_events() {
            log::error!("vsock: cannot ask for events of sockets: {error}");
        }
    }

    /// The driver is gone. What it sent before is still delivered: guests print and exit.
    pub(super) fn finish(&mut self) {
        if let Err(error) = self.take_packets() {
            log::debug!("last packets of a vsock driver: {error}");
        }
        self.muxer.commands();
        self.muxer.disconnect();
    }
}

impl Worker for VsockWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.rx.notify, RX_TOKEN, EventSet::IN)?;
        poller.add(&self.tx.notify, TX_TOKEN, EventSet::IN)?;
        poller.add(&self.wake, WAKE_TOKEN, EventSet::IN)?;
        poller.add(&self.muxer, HOST_TOKEN, EventSet::IN)
    }

    fn resumed(&mut self, _poller: &Poller) -> Next {
        // A closed host end is an error of `writev` here. After a pause it is blocked already, which is an error.
        drop(block_signal(libc::SIGPIPE));
        self.muxer.commands();
        self.host_events();
        self.round()
    }

    fn ready(&mut self, token: u64, _events: EventSet, _poller: &Poller) -> Next {
        match token {
            RX_TOKEN => self.rx.drain_notify(),
            TX_TOKEN => self.tx.drain_notify(),
            WAKE_TOKEN => {
                // Another event may have taken it.
                drop(self.wake.read());
                self.muxer.commands();
            }
            _ => self.host_events(),
        }
        self.round()
    }

    fn deadline(&self) -> Option<Instant> {
        self.muxer.deadline()
    }

    fn expired(&mut self, _poller: &Poller) -> Next {
        self.muxer.expire(Instant::now());
        self.round()
    }

    fn failed(&mut self) {
        self.muxer.disconnect();
        self.interrupt.need_reset();
    }
}
