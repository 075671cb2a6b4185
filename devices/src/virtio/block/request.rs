//! Parses and checks requests to a disk (VIRTIO 1.2, 5.2.6). Pure functions; the disk's worker executes the requests.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Unit of all addresses and lengths, in bytes, whatever the disk's block size.
pub const SECTOR: u64 = SECTOR_LEN as u64;
/// [`SECTOR`] as configuration space has it.
pub const SECTOR_LEN: u32 = 512;
/// Length of a request's header in bytes.
pub const HEADER: usize = 16;
/// Length of one range of a discard in bytes.
pub const RANGE: usize = RANGE_LEN as usize;
const RANGE_LEN: u32 = 16;
/// Length of a disk's serial number in bytes.
pub const ID_BYTES: u32 = VIRTIO_BLK_ID_BYTES;
/// A disk's serial number, padded with zeroes.
pub type DiskId = [u8; ID_BYTES as usize];

/// Most data buffers in a request: the size of the queue without header and status.
pub const SEG_MAX: u32 = 254;
/// Largest data buffer in a request, in bytes.
pub const SIZE_MAX: u32 = 256 << 10;
/// Most bytes that one request reads or writes, 63.5 MiB: a driver that keeps to [`SEG_MAX`] and [`SIZE_MAX`] cannot ask
/// for more. A device serves a request to its end before it pauses or stops, so this bounds its wait.
pub const MAX_TRANSFER: u32 = SEG_MAX * SIZE_MAX;
/// Most ranges in one discard.
pub const MAX_DISCARD_RANGES: u32 = 16;
/// Most sectors in one range of a discard: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Most ranges in one request for zeroes.
pub const MAX_ZEROES_RANGES: u32 = 1;
/// Most sectors in one range of zeroes: 32 MiB, since the host may have to write them.
pub const MAX_ZEROES_SECTORS: u32 = 64 << 10;

/// The status in a request's last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(clippy::cast_possible_truncation, reason = "constants of the specification between 0 and 2")]
pub enum BlockStatus {
    /// The request has been executed.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// The request is invalid, or it failed on the host.
    IoError = VIRTIO_BLK_S_IOERR as u8,
    /// The device does not know this type of request.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// The properties of a disk that a request is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Capacity in sectors.
    pub sectors: u64,
    /// The guest may not change the disk.
    pub read_only: bool,
}

/// Number of bytes of a request besides header and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadLen {
    /// Bytes from the driver.
    pub readable: u32,
    /// Bytes for the driver.
    pub writable: u32,
}

/// A valid request: it lies within the disk and does not change a read-only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRequest {
    /// Fill the writable payload from byte `offset` on.
    Read {
        /// Position on the disk in bytes.
        offset: u64,
    },
    /// Write the readable payload at byte `offset`.
    Write {
        /// Position on the disk in bytes.
        offset: u64,
    },
    /// Put all earlier writes on stable storage (fdatasync(2)).
    Flush,
    /// Return the disk's serial number.
    Id,
    /// Discard the ranges in the readable payload, which [`parse_range`] parses.
    Discard,
    /// Fill the ranges in the readable payload with zeroes. [`parse_range`] parses them.
    WriteZeroes,
}

/// A range of a disk in a discard or in a request for zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRange {
    /// Position on the disk in bytes.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// A hole may stand for the zeroes.
    pub unmap: bool,
}

/// Parses the header of a request. An error is the status to answer with.
pub fn parse(header: [u8; HEADER], payload: PayloadLen, disk: DiskInfo) -> Result<BlockRequest, BlockStatus> {
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN if payload.readable == 0 => {
            Ok(BlockRequest::Read { offset: data_offset(sector, payload.writable, disk)? })
        }
        VIRTIO_BLK_T_OUT if payload.writable == 0 && !disk.read_only => {
            Ok(BlockRequest::Write { offset: data_offset(sector, payload.readable, disk)? })
        }
        VIRTIO_BLK_T_FLUSH if payload == (PayloadLen { readable: 0, writable: 0 }) => Ok(BlockRequest::Flush),
        VIRTIO_BLK_T_GET_ID if payload.readable == 0 && payload.writable >= ID_BYTES => Ok(BlockRequest::Id),
        VIRTIO_BLK_T_DISCARD if has_ranges(payload, disk, MAX_DISCARD_RANGES) => Ok(BlockRequest::Discard),
        VIRTIO_BLK_T_WRITE_ZEROES if has_ranges(payload, disk, MAX_ZEROES_RANGES) => Ok(BlockRequest::WriteZeroes),
        VIRTIO_BLK_T_IN
        | VIRTIO_BLK_T_OUT
        | VIRTIO_BLK_T_FLUSH
        | VIRTIO_BLK_T_GET_ID
        | VIRTIO_BLK_T_DISCARD
        | VIRTIO_BLK_T_WRITE_ZEROES => Err(BlockStatus::IoError),
        _ => Err(BlockStatus::Unsupported),
    }
}

/// The position in bytes of a transfer of `len` bytes.
fn data_offset(sector: u64, len: u32, disk: DiskInfo) -> Result<u64, BlockStatus> {
    let len = u64::from(len);
    if len == 0 || len % SECTOR != 0 || len > u64::from(MAX_TRANSFER) {
        return Err(BlockStatus::IoError);
    }
    offset(sector, len / SECTOR, disk)
}

fn offset(sector: u64, sectors: u64, disk: DiskInfo) -> Result<u64, BlockStatus> {
    let end = sector.checked_add(sectors).filter(|end| *end <= disk.sectors);
    end.and(sector.checked_mul(SECTOR)).ok_or(BlockStatus::IoError)
}

fn has_ranges(payload: PayloadLen, disk: DiskInfo, max: u32) -> bool {
    let bytes = payload.readable;
    let whole = bytes > 0 && bytes.is_multiple_of(RANGE_LEN) && bytes / RANGE_LEN <= max;
    whole && payload.writable == 0 && !disk.read_only
}

/// Parses one range of [`BlockRequest::Discard`] or, with `zeroes`, of [`BlockRequest::WriteZeroes`]. An error is the
/// status to answer with; the caller must not have executed any range of the request.
pub fn parse_range(bytes: [u8; RANGE], zeroes: bool, disk: DiskInfo) -> Result<DiskRange, BlockStatus> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    // 5.2.6.2: unknown flags, and "unmap" for a discard, are not supported.
    let (known, max) =
        if zeroes { (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, MAX_ZEROES_SECTORS) } else { (0, MAX_DISCARD_SECTORS) };
    if flags & !known != 0 {
        return Err(BlockStatus::Unsupported);
    }
    if sectors == 0 || sectors > max {
        return Err(BlockStatus::IoError);
    }
    let offset = offset(sector, u64::from(sectors), disk)?;
    Ok(DiskRange { offset, len: u64::from(sectors) * SECTOR, unmap: flags != 0 })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
