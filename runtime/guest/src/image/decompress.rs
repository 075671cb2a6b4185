//! The compressions of kernels and modules. Each output has a bound before it is read.

use std::io::{self, Read};

use super::{elf, ImageError};

/// Compression of a bzImage's payload or a module file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression (`CONFIG_KERNEL_UNCOMPRESSED`).
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// xz, with the x86 branch filter as the kernel uses it.
    Xz,
    /// Zstandard, RFC 8878, windows to 2^31 bytes (the kernel's `-22 --ultra` makes 2^27).
    Zstd,
    /// The legacy frame of `lz4 -l`.
    Lz4,
    /// LZMA alone.
    Lzma,
    /// bzip2.
    Bzip2,
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Lzma => "lzma",
            Compression::Bzip2 => "bzip2",
        })
    }
}

/// First bytes of `lz4 -l`; each block that follows has its length before it and unpacks to at most 8 MiB.
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
/// The LZMA decoder's own memory; the kernel's dictionaries have at most 128 MiB.
const LZMA_MEMORY: u64 = 512 << 20;

impl Compression {
    /// Detects the compression from the first bytes, as the kernel's lib/decompress.c does.
    pub(crate) fn detect(data: &[u8]) -> Result<Compression, ImageError> {
        Ok(match data {
            _ if data.starts_with(elf::MAGIC) => Compression::None,
            [0x1f, 0x8b | 0x9e, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0x5d, 0, 0, ..] => Compression::Lzma,
            [0x89, b'L', b'Z', b'O', ..] => return Err(ImageError::Lzo),
            _ if data.starts_with(&LZ4_MAGIC) => Compression::Lz4,
            _ => return Err(ImageError::UnknownCompression { magic: data.iter().take(6).copied().collect() }),
        })
    }
}

/// Unpacks `data`, whose result must have `expected` bytes and may have at most `limit`.
///
/// Ignores bytes after the compressed stream: a bzImage's payload ends with the unpacked length.
pub(super) fn decompress(
    method: Compression,
    data: &[u8],
    expected: usize,
    limit: usize,
) -> Result<Vec<u8>, ImageError> {
    if method == Compression::None {
        return Ok(data.to_vec()); // the length is not announced
    }
    if expected > limit {
        return Err(ImageError::TooLarge { limit });
    }
    let out = unpack(method, data, expected, limit)?;
    if out.len() != expected {
        return Err(ImageError::SizeMismatch { declared: expected, got: out.len() });
    }
    Ok(out)
}

/// Unpacks `data` of unknown unpacked length, to at most `limit` bytes.
pub(crate) fn decompress_file(method: Compression, data: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    if method == Compression::None {
        return Ok(data.to_vec());
    }
    unpack(method, data, 0, limit)
}

fn unpack(method: Compression, data: &[u8], hint: usize, limit: usize) -> Result<Vec<u8>, ImageError> {
    let failed = |source| ImageError::Decompress { method, source };
    match method {
        Compression::None => Ok(data.to_vec()),
        Compression::Gzip => read_bounded(method, flate2::bufread::GzDecoder::new(data), hint, limit),
        Compression::Bzip2 => read_bounded(method, bzip2::bufread::BzDecoder::new(data), hint, limit),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(LZMA_MEMORY, 0).map_err(|e| failed(e.into()))?;
            read_bounded(method, liblzma::bufread::XzDecoder::new_stream(data, stream), hint, limit)
        }
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(LZMA_MEMORY).map_err(|e| failed(e.into()))?;
            read_bounded(method, liblzma::bufread::XzDecoder::new_stream(data, stream), hint, limit)
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(failed)?.single_frame();
            decoder.window_log_max(31).map_err(failed)?;
            read_bounded(method, decoder, hint, limit)
        }
        Compression::Lz4 => lz4_legacy(data, hint, limit),
    }
}

fn read_bounded(method: Compression, reader: impl Read, hint: usize, limit: usize) -> Result<Vec<u8>, ImageError> {
    // `hint` is checked against `limit` by the caller; memory is only reserved, not touched.
    let mut out = Vec::with_capacity(hint.min(limit));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut out).map_err(|source| ImageError::Decompress { method, source })?;
    if out.len() > limit {
        return Err(ImageError::TooLarge { limit });
    }
    Ok(out)
}

fn lz4_legacy(data: &[u8], hint: usize, limit: usize) -> Result<Vec<u8>, ImageError> {
    let damaged = |what: &str| ImageError::Decompress {
        method: Compression::Lz4,
        source: io::Error::new(io::ErrorKind::InvalidData, what.to_owned()),
    };
    let mut rest = data.get(LZ4_MAGIC.len()..).ok_or_else(|| damaged("no blocks"))?;
    let mut out = Vec::with_capacity(hint.min(limit));
    let mut block = vec![0; LZ4_BLOCK];
    // Four bytes or fewer are the appended length (the kernel's lib/decompress_unlz4.c ends the same way).
    while let [a, b, c, d, tail @ ..] = rest {
        if tail.is_empty() {
            break;
        }
        let length = u32::from_le_bytes([*a, *b, *c, *d]);
        if length.to_le_bytes() == LZ4_MAGIC {
            rest = tail; // concatenated archives are allowed
            continue;
        }
        let length = length as usize;
        let packed = tail.get(..length).ok_or_else(|| damaged("a block lies beyond the end"))?;
        let got = lz4_flex::block::decompress_into(packed, &mut block).map_err(|error| damaged(&error.to_string()))?;
        let unpacked = block.get(..got).ok_or_else(|| damaged("a block unpacks to more than 8 MiB"))?;
        if out.len() + unpacked.len() > limit {
            return Err(ImageError::TooLarge { limit });
        }
        out.extend_from_slice(unpacked);
        rest = tail.get(length..).unwrap_or_default();
    }
    Ok(out)
}
