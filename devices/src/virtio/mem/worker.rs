//! The device's thread: takes requests from the queue, one after the other.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::blocks::Discard;
use super::handle::Shared;
use super::request::{Request, ANSWER_LEN, REQUEST_LEN};
use crate::virtio::queue::retire;
use crate::virtio::{Chain, ChainError, DeviceInterrupt, DeviceQueue};
use crate::worker::{Next, Poller, Worker};
use crate::GuestRam;

const NOTIFY: u64 = 0;

pub(super) struct MemWorker {
    pub(super) name: String,
    pub(super) mem: GuestRam,
    pub(super) queue: DeviceQueue,
    pub(super) interrupt: Arc<DeviceInterrupt>,
    pub(super) shared: Arc<Shared>,
    pub(super) discard: Arc<dyn Discard>,
}

impl MemWorker {
    fn serve(&mut self) -> Next {
        let Self { name, mem, queue, interrupt, shared, discard } = self;
        match queue.serve(mem, interrupt, |chain| answer(mem, chain, shared, discard.as_ref())) {
            Ok(()) => Next::Continue,
            Err(error) => retire(name, interrupt, &error),
        }
    }
}

/// Serves one request and returns the length of the answer.
fn answer(mem: &GuestRam, chain: &Chain, shared: &Shared, discard: &dyn Discard) -> Result<u32, ChainError> {
    let mut bytes = [0; REQUEST_LEN];
    chain.reader(mem).read_exact(&mut bytes)?;
    // Nothing is done that cannot be answered.
    let mut writer = chain.writer(mem);
    if (writer.remaining() as usize) < ANSWER_LEN {
        return Err(ChainError::Short);
    }
    writer.write_all(&shared.serve(Request::parse(&bytes), discard).bytes())?;
    Ok(writer.written())
}

impl Worker for MemWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.queue.notify, NOTIFY, EventSet::IN)
    }

    fn resumed(&mut self, _poller: &Poller) -> Next {
        self.serve()
    }

    fn ready(&mut self, _token: u64, _events: EventSet, _poller: &Poller) -> Next {
        self.queue.drain_notify();
        self.serve()
    }

    fn failed(&mut self) {
        self.interrupt.need_reset();
    }
}
