//! A disk's thread: takes requests out of the queue and does them, one after the other, on guest memory itself.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::backend::Backend;
use super::request::{self, Payload, Request, Status, HEADER, RANGE};
use super::ID;
use crate::virtio::queue::retire;
use crate::virtio::{Chain, ChainError, ChainReader, ChainWriter, DeviceInterrupt, DeviceQueue};
use crate::worker::{Next, Poller, Worker};
use crate::{warn_limited, GuestRam};

const NOTIFY: u64 = 0;

/// The inside of an active disk.
pub struct BlockWorker {
    /// What is not the queue's.
    pub target: Target,
    /// The disk's only queue.
    pub queue: DeviceQueue,
    /// The way to the guest.
    pub interrupt: Arc<DeviceInterrupt>,
}

/// What requests are done with.
pub struct Target {
    /// For logs.
    pub name: String,
    /// Guest memory.
    pub mem: GuestRam,
    /// The disk.
    pub backend: Arc<Backend>,
    /// What the driver is told when it asks for the disk's name.
    pub id: ID,
    /// The driver does not know of flushes: each write lasts before it is reported (VIRTIO 1.2, 5.2.5.2).
    pub write_through: bool,
}

impl Target {
    /// Does one request. Returns the number of bytes written from the start of its writable buffers.
    ///
    /// # Errors
    /// There is no byte for the status.
    fn handle(&self, chain: &Chain) -> Result<u32, ChainError> {
        let writable = chain.writable_len().checked_sub(1).ok_or(ChainError::Short)?;
        let mut data = chain.writer(&self.mem).limited(writable);
        let status = self.answer(&mut chain.reader(&self.mem), &mut data).err().unwrap_or(Status::Ok);
        let mut last = chain.writer(&self.mem);
        last.skip(writable)?;
        last.write_obj(status as u8)?;
        // 2.7.8.2: a length up to which all has been written. The status comes after a gap if there was less data.
        let whole = data.written() == writable;
        Ok(if whole { last.written() } else { data.written() })
    }

    fn answer(&self, buffers: &mut ChainReader<'_>, data: &mut ChainWriter<'_>) -> Result<(), Status> {
        let mut header = [0; HEADER];
        buffers.read_exact(&mut header).map_err(|_| Status::IoError)?;
        let payload = Payload { readable: buffers.remaining(), writable: data.remaining() };
        let request = request::parse(header, payload, self.backend.disk())?;
        self.perform(request, buffers, data)
    }

    fn perform(&self, request: Request, out: &mut ChainReader<'_>, into: &mut ChainWriter<'_>) -> Result<(), Status> {
        match request {
            Request::Read { offset } => self.host("read", self.backend.read(offset, into)),
            Request::Write { offset } => {
                self.host("write", self.backend.write(offset, out))?;
                self.settle()
            }
            Request::Flush => self.host("flush", self.backend.flush()),
            Request::Id => into.write_all(&self.id).map_err(|_| Status::IoError),
            Request::Discard => {
                for range in self.ranges(out, false)? {
                    self.host("discard", self.backend.discard(range))?;
                }
                Ok(())
            }
            Request::WriteZeroes => {
                for range in self.ranges(out, true)? {
                    self.host("write zeroes", self.backend.write_zeroes(range))?;
                }
                self.settle()
            }
        }
    }

    /// All of them, before the first is touched. Their number was checked.
    fn ranges(&self, out: &mut ChainReader<'_>, zeroes: bool) -> Result<Vec<request::Range>, Status> {
        let mut ranges = Vec::new();
        while out.remaining() > 0 {
            let mut bytes = [0; RANGE];
            out.read_exact(&mut bytes).map_err(|_| Status::IoError)?;
            ranges.push(request::parse_range(bytes, zeroes, self.backend.disk())?);
        }
        Ok(ranges)
    }

    fn settle(&self) -> Result<(), Status> {
        if self.write_through {
            self.host("flush", self.backend.flush())
        } else {
            Ok(())
        }
    }

    fn host(&self, operation: &str, result: io::Result<()>) -> Result<(), Status> {
        result.map_err(|error| {
            warn_limited!("{}: {operation} failed on the host: {error}", self.name);
            Status::IoError
        })
    }
}

impl BlockWorker {
    fn serve(&mut self) -> Next {
        let Self { target, queue, interrupt } = self;
        match queue.serve(&target.mem, interrupt, |chain| target.handle(chain)) {
            Ok(()) => Next::Continue,
            Err(error) => retire(&target.name, interrupt, &error),
        }
    }
}

impl Worker for BlockWorker {
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
