//! Executes a disk's requests on its thread, directly on guest memory. The thread (`Drive::serve`, `device.rs`) calls
//! [`RequestHandler::handle`] for each request; reads, writes and flushes end in `Backend` (`backend.rs`).

use std::io;

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::drive::{disk_of, Drive, Medium};
use super::request::{self, BlockRequest, BlockStatus, DiskId, DiskInfo, PayloadLen, HEADER, RANGE};
use crate::virtio::one_queue::DriverSession;
use crate::virtio::{Chain, ChainError, ChainReader, ChainWriter};
use crate::warn_limited;

/// Executes one request.
pub(super) struct RequestHandler<'a> {
    /// The disk of the request.
    pub(super) drive: &'a Drive,
    /// Guest memory and negotiated features.
    pub(super) session: &'a DriverSession,
}

impl RequestHandler<'_> {
    /// Executes the request in `chain`. Returns the number of bytes written from the start of its writable buffers.
    ///
    /// # Errors
    /// There is no byte for the status.
    pub(super) fn handle(&self, chain: &Chain) -> Result<u32, ChainError> {
        let writable = chain.writable_len().checked_sub(1).ok_or(ChainError::Short)?;
        let mut data = chain.writer(&self.session.mem).limited(writable);
        let status = self.answer(&mut chain.reader(&self.session.mem), &mut data).err().unwrap_or(BlockStatus::Ok);
        let mut last = chain.writer(&self.session.mem);
        last.skip(writable)?;
        last.write_obj(status as u8)?;
        // 2.7.8.2: the length up to which all bytes have been written. With less data, the status lies after a gap.
        let whole = data.written() == writable;
        Ok(if whole { last.written() } else { data.written() })
    }

    fn answer(&self, buffers: &mut ChainReader<'_>, data: &mut ChainWriter<'_>) -> Result<(), BlockStatus> {
        let mut header = [0; HEADER];
        buffers.read_exact(&mut header).map_err(|_| BlockStatus::IoError)?;
        let payload = PayloadLen { readable: buffers.remaining(), writable: data.remaining() };
        // Held to the end, so that the request is executed on the image that it was checked against.
        let medium = self.drive.medium();
        let request = request::parse(header, payload, disk_of(medium.get()))?;
        match (medium.get(), request) {
            (Some(medium), request) => self.perform(medium, request, buffers, data),
            (None, BlockRequest::Id) => data.write_all(&DiskId::default()).map_err(|_| BlockStatus::IoError),
            (None, BlockRequest::Flush) => Ok(()),
            (None, _) => Err(BlockStatus::IoError),
        }
    }

    fn perform(
        &self,
        medium: &Medium,
        request: BlockRequest,
        out: &mut ChainReader<'_>,
        into: &mut ChainWriter<'_>,
    ) -> Result<(), BlockStatus> {
        let backend = &medium.backend;
        let settle = || if self.write_through() { self.host("flush", backend.flush()) } else { Ok(()) };
        match request {
            BlockRequest::Read { offset } => self.host("read", backend.read(offset, into)),
            BlockRequest::Write { offset } => {
                self.host("write", backend.write(offset, out))?;
                settle()
            }
            BlockRequest::Flush => self.host("flush", backend.flush()),
            BlockRequest::Id => into.write_all(&medium.id).map_err(|_| BlockStatus::IoError),
            BlockRequest::Discard => {
                for range in ranges(out, false, backend.disk())? {
                    self.host("discard", backend.discard(range))?;
                }
                Ok(())
            }
            BlockRequest::WriteZeroes => {
                for range in ranges(out, true, backend.disk())? {
                    self.host("write zeroes", backend.write_zeroes(range))?;
                }
                settle()
            }
        }
    }

    /// Whether each write must be on stable storage before its completion, because the driver does not flush (VIRTIO
    /// 1.2, 5.2.5.2).
    fn write_through(&self) -> bool {
        self.session.features & 1 << VIRTIO_BLK_F_FLUSH == 0
    }

    fn host(&self, operation: &str, result: io::Result<()>) -> Result<(), BlockStatus> {
        result.map_err(|error| {
            warn_limited!("{}: {operation} failed on the host: {error}", self.session.name);
            BlockStatus::IoError
        })
    }
}

/// Parses all ranges of a request, before any of them is executed. Their number has been checked.
fn ranges(out: &mut ChainReader<'_>, zeroes: bool, disk: DiskInfo) -> Result<Vec<request::DiskRange>, BlockStatus> {
    let mut ranges = Vec::new();
    while out.remaining() > 0 {
        let mut bytes = [0; RANGE];
        out.read_exact(&mut bytes).map_err(|_| BlockStatus::IoError)?;
        ranges.push(request::parse_range(bytes, zeroes, disk)?);
    }
    Ok(ranges)
}
