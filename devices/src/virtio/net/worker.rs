//! A network device's thread: both directions, one epoll.
//!
//! It watches the host's interface for frames only while the guest has buffers, and for room only while the guest has a
//! frame that did not fit. An idle guest therefore costs nothing.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::backend::NetBackend;
use super::receive::{Receiver, RxOutcome};
use super::transmit::{Transmitter, TxOutcome};
use crate::virtio::queue::retire;
use crate::virtio::{DeviceInterrupt, QueueError};
use crate::warn_limited;
use crate::worker::{Next, Poller, Worker};

const RECEIVE: u64 = 0;
const TRANSMIT: u64 = 1;
const LINK: u64 = 2;

/// The worker of an active network device.
pub struct NetWorker {
    /// The device's name in logs.
    pub name: String,
    /// The host's interface.
    pub link: Arc<dyn NetBackend>,
    /// Whether the host's interface is there; shared with configuration space.
    pub up: Arc<AtomicBool>,
    /// Host to guest.
    pub receiver: Receiver,
    /// Guest to host.
    pub transmitter: Transmitter,
    /// The device's interrupt.
    pub interrupt: Arc<DeviceInterrupt>,
    /// The events that the backend is watched for.
    pub watched: EventSet,
}

impl NetWorker {
    fn receive(&mut self, poller: &Poller) -> Next {
        if !self.is_up() {
            return Next::Continue;
        }
        match self.receiver.receive(self.link.fd(), &self.interrupt) {
            Ok(RxOutcome::Idle) => self.watch(poller, EventSet::IN, true),
            Ok(RxOutcome::Starved) => self.watch(poller, EventSet::IN, false),
            Ok(RxOutcome::LinkLost) => self.lose_link(poller),
            Err(error) => return self.retire(&error),
        }
        Next::Continue
    }

    fn transmit(&mut self, poller: &Poller) -> Next {
        let link: Option<BorrowedFd<'_>> = self.up.load(Ordering::SeqCst).then(|| self.link.fd());
        match self.transmitter.transmit(link, &self.interrupt) {
            Ok(TxOutcome::Idle) => self.watch(poller, EventSet::OUT, false),
            Ok(TxOutcome::Blocked) => self.watch(poller, EventSet::OUT, true),
            Ok(TxOutcome::LinkLost) => self.lose_link(poller),
            Err(error) => return self.retire(&error),
        }
        Next::Continue
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    fn watch(&mut self, poller: &Poller, event: EventSet, wanted: bool) {
        let mut watched = self.watched;
        watched.set(event, wanted);
        if watched != self.watched && self.is_up() {
            self.watched = watched;
            if let Err(error) = poller.modify(&self.link.fd(), LINK, watched) {
                warn_limited!("{}: cannot watch the host's interface: {error}", self.name);
            }
        }
    }

    /// Removes the interface, which was deleted on the host, from the poller: its events would never end.
    fn lose_link(&mut self, poller: &Poller) {
        if self.up.swap(false, Ordering::SeqCst) {
            warn_limited!("{}: the host's interface is gone", self.name);
            if let Err(error) = poller.remove(&self.link.fd()) {
                warn_limited!("{}: cannot forget the host's interface: {error}", self.name);
            }
            self.interrupt.signal_config();
        }
    }

    fn retire(&self, error: &QueueError) -> Next {
        retire(&self.name, &self.interrupt, error)
    }
}

impl Worker for NetWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.receiver.queue.notify, RECEIVE, EventSet::IN)?;
        poller.add(&self.transmitter.queue.notify, TRANSMIT, EventSet::IN)?;
        if self.is_up() {
            poller.add(&self.link.fd(), LINK, self.watched)?;
        }
        Ok(())
    }

    fn resumed(&mut self, poller: &Poller) -> Next {
        match self.receive(poller) {
            Next::Continue => self.transmit(poller),
            Next::Retire => Next::Retire,
        }
    }

    fn ready(&mut self, token: u64, events: EventSet, poller: &Poller) -> Next {
        match token {
            RECEIVE => {
                self.receiver.queue.drain_notify();
                self.receive(poller)
            }
            TRANSMIT => {
                self.transmitter.queue.drain_notify();
                self.transmit(poller)
            }
            _ if events.intersects(EventSet::ERROR | EventSet::HANG_UP) => {
                self.lose_link(poller);
                // This drops the frames that waited for room.
                self.transmit(poller)
            }
            _ => {
                if events.contains(EventSet::OUT) && self.transmit(poller) == Next::Retire {
                    return Next::Retire;
                }
                self.receive(poller)
            }
        }
    }

    fn failed(&mut self) {
        self.interrupt.need_reset();
    }
}
