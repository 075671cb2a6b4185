//! Does a disk's requests, on guest memory itself.

use std::io;

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::drive::{disk_of, Drive, Medium};
use super::request::{self, Disk, Payload, Request, Status, HEADER, RANGE};
use super::ID;
use crate::virtio::one_queue::Session;
use crate::virtio::{Chain, ChainError, ChainReader, ChainWriter};
use crate::warn_limited;

/// What requests are done with.
pub(super) struct Target<'a> {
    /// The disk.
    pub(super) drive: &'a Drive,
    /// What its driver has agreed on.
    pub(super) session: &'a Session,
}

impl Target<'_> {
    /// Does one request. Returns the number of bytes written from the start of its writable buffers.
    ///
    /// # Errors
    /// There is no byte for the status.
    pub(super) fn handle(&self, chain: &Chain) -> Result<u32, ChainError> {
        let writable = chain.writable_len().checked_sub(1).ok_or(ChainError::Short)?;
        let mut data = chain.writer(&self.session.mem).limited(writable);
        let status = self.answer(&mut chain.reader(&self.session.mem), &mut data).err().unwrap_or(Status::Ok);
        let mut last = chain.writer(&self.session.mem);
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
        // Held to the end: the image that the request was checked against is the one it is done on.
        let medium = self.drive.medium();
        let request = request::parse(header, payload, disk_of(&medium))?;
        match (&*medium, request) {
            (Some(medium), request) => self.perform(medium, request, buffers, data),
            (None, Request::Id) => data.write_all(&ID::default()).map_err(|_| Status::IoError),
            (None, Request::Flush) => Ok(()),
            (None, _) => Err(Status::IoError),
        }
    }

    fn perform(
        &self,
        medium: &Medium,
        request: Request,
        out: &mut ChainReader<'_>,
        into: &mut ChainWriter<'_>,
    ) -> Result<(), Status> {
        let backend = &medium.backend;
        let settle = || if self.write_through() { self.host("flush", backend.flush()) } else { Ok(()) };
        match request {
            Request::Read { offset } => self.host("read", backend.read(offset, into)),
            Request::Write { offset } => {
                self.host("write", backend.write(offset, out))?;
                settle()
            }
            Request::Flush => self.host("flush", backend.flush()),
            Request::Id => into.write_all(&medium.id).map_err(|_| Status::IoError),
            Request::Discard => {
                for range in ranges(out, false, backend.disk())? {
                    self.host("discard", backend.discard(range))?;
                }
                Ok(())
            }
            Request::WriteZeroes => {
                for range in ranges(out, true, backend.disk())? {
                    self.host("write zeroes", backend.write_zeroes(range))?;
                }
                settle()
            }
        }
    }

    /// The driver does not know of flushes: each write lasts before it is reported (VIRTIO 1.2, 5.2.5.2).
    fn write_through(&self) -> bool {
        self.session.features & 1 << VIRTIO_BLK_F_FLUSH == 0
    }

    fn host(&self, operation: &str, result: io::Result<()>) -> Result<(), Status> {
        result.map_err(|error| {
            warn_limited!("{}: {operation} failed on the host: {error}", self.session.name);
            Status::IoError
        })
    }
}

/// All of them, before the first is touched. Their number was checked.
fn ranges(out: &mut ChainReader<'_>, zeroes: bool, disk: Disk) -> Result<Vec<request::Range>, Status> {
    let mut ranges = Vec::new();
    while out.remaining() > 0 {
        let mut bytes = [0; RANGE];
        out.read_exact(&mut bytes).map_err(|_| Status::IoError)?;
        ranges.push(request::parse_range(bytes, zeroes, disk)?);
    }
    Ok(ranges)
}
