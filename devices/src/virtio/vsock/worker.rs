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

/// Most packets per round and direction, so that the thread sees a stop soon.
const BATCH: usize = 256;

const RX_TOKEN: u64 = 0;
const TX_TOKEN: u64 = 1;
const WAKE_TOKEN: u64 = 2;
const HOST_TOKEN: u64 = 3;

/// The worker of an active vsock device.
pub(super) struct VsockWorker {
    pub(super) mem: GuestRam,
    pub(super) interrupt: Arc<DeviceInterrupt>,
    pub(super) rx: DeviceQueue,
    pub(super) tx: DeviceQueue,
    pub(super) wake: EventFd,
    pub(super) muxer: Muxer,
}

impl VsockWorker {
    /// Moves packets in both directions. After an error of the driver or the kernel the worker retires.
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

    /// True if a batch ended before the work.
    fn try_round(&mut self) -> Result<bool, QueueError> {
        let result = self.take_packets().and_then(|more| Ok(self.fill()? || more));
        // Packets that went through before an error are signalled too.
        self.tx.signal(&self.mem, &self.interrupt)?;
        self.rx.signal(&self.mem, &self.interrupt)?;
        result
    }

    /// Moves packets from the guest to the host. This never blocks: credit bounds the bytes of a slow host, which are
    /// buffered.
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

    /// Moves packets from the host to the guest. The driver notifies of new buffers only while packets wait for them.
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
            warn_limited!("vsock: cannot ask for events of sockets: {error}");
        }
    }

    /// Ends all connections, as the driver is gone. Delivers the bytes that it sent before: guests print and exit.
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
        // `writev` to a closed end of the host must return an error. After a pause the signal is blocked already, which
        // `block_signal` reports as an error.
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
                // The worker may have read it at another event.
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
