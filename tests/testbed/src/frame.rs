//! Frames on the testbed's one serial port: a kind byte, a little-endian `u32` length, that many bytes.
//!
//! One port for everything keeps the order: when [`Frame::Exit`] arrives, all output has arrived before it.

use std::io::{self, Read, Write};

/// Largest payload of a frame in bytes.
pub const MAX_DATA: usize = 64 << 10;

/// Bytes before the payload.
const HEAD: usize = 5;

/// One message between the halves of the testbed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Guest to host: the command was started.
    Started,
    /// Guest to host: the command wrote this to stdout, or to its terminal.
    Stdout(Vec<u8>),
    /// Guest to host: the command wrote this to stderr.
    Stderr(Vec<u8>),
    /// Guest to host: the command ended; its code, or 128 + the signal. Nothing follows.
    Exit(u8),
    /// Guest to host: the testbed itself failed. Nothing follows.
    Failed(String),
    /// Host to guest: bytes for stdin; empty is its end.
    Stdin(Vec<u8>),
    /// Host to guest: the terminal's new rows and columns.
    Resize(u16, u16),
}

/// Why a frame could not be read.
#[derive(Debug)]
pub enum FrameError {
    /// The port failed.
    Io(io::Error),
    /// The port closed, between frames or inside one.
    Closed,
    /// The bytes are not a frame.
    Garbage(String),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::Io(_) => write!(f, "the testbed's port failed"),
            FrameError::Closed => write!(f, "the testbed's port closed"),
            FrameError::Garbage(what) => write!(f, "the testbed's port carries {what}"),
        }
    }
}

impl std::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FrameError::Io(source) => Some(source),
            FrameError::Closed | FrameError::Garbage(_) => None,
        }
    }
}

impl From<io::Error> for FrameError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => FrameError::Closed,
            _ => FrameError::Io(source),
        }
    }
}

impl Frame {
    /// Writes the frame. Data longer than [`MAX_DATA`] goes out as several frames.
    pub fn write_to(&self, port: &mut impl Write) -> io::Result<()> {
        match self {
            Frame::Started => put(port, b'S', &[]),
            Frame::Stdout(data) => put_data(port, b'o', data),
            Frame::Stderr(data) => put_data(port, b'e', data),
            Frame::Exit(code) => put(port, b'X', &[*code]),
            Frame::Failed(why) => put(port, b'F', &why.as_bytes()[..why.len().min(MAX_DATA)]),
            Frame::Stdin(data) if data.is_empty() => put(port, b'i', &[]),
            Frame::Stdin(data) => put_data(port, b'i', data),
            Frame::Resize(rows, cols) => {
                let [a, b] = rows.to_le_bytes();
                let [c, d] = cols.to_le_bytes();
                put(port, b'R', &[a, b, c, d])
            }
        }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// After [`FrameError::Garbage`] the port is out of step.
    pub fn read_from(port: &mut impl Read) -> Result<Frame, FrameError> {
        let mut head = [0; HEAD];
        port.read_exact(&mut head)?;
        let (kind, len) = parse_head(head)?;
        let mut data = vec![0; len];
        port.read_exact(&mut data)?;
        Frame::from_parts(kind, &data)
    }

    /// Takes one frame off the front of `bytes`; `None` if there is no whole one yet.
    pub fn take_from(bytes: &mut Vec<u8>) -> Result<Option<Frame>, FrameError> {
        let Some(&head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let (kind, len) = parse_head(head)?;
        let Some(data) = bytes.get(HEAD..HEAD + len) else { return Ok(None) };
        let frame = Frame::from_parts(kind, data)?;
        bytes.drain(..HEAD + len);
        Ok(Some(frame))
    }

    fn from_parts(kind: u8, data: &[u8]) -> Result<Frame, FrameError> {
        match (kind, data) {
            (b'S', []) => Ok(Frame::Started),
            (b'o', _) => Ok(Frame::Stdout(data.to_vec())),
            (b'e', _) => Ok(Frame::Stderr(data.to_vec())),
            (b'X', [code]) => Ok(Frame::Exit(*code)),
            (b'F', _) => Ok(Frame::Failed(String::from_utf8_lossy(data).into_owned())),
            (b'i', _) => Ok(Frame::Stdin(data.to_vec())),
            (b'R', &[a, b, c, d]) => Ok(Frame::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))),
            _ => Err(FrameError::Garbage(format!("a frame of kind {kind:#04x} with {} bytes", data.len()))),
        }
    }
}

fn parse_head([kind, len @ ..]: [u8; HEAD]) -> Result<(u8, usize), FrameError> {
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_DATA {
        return Err(FrameError::Garbage(format!("a frame of {len} bytes")));
    }
    Ok((kind, len))
}

fn put_data(port: &mut impl Write, kind: u8, data: &[u8]) -> io::Result<()> {
    data.chunks(MAX_DATA).try_for_each(|chunk| put(port, kind, chunk))
}

fn put(port: &mut impl Write, kind: u8, data: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEAD + data.len());
    frame.push(kind);
    frame.extend_from_slice(&(data.len() as u32).to_le_bytes());
    frame.extend_from_slice(data);
    port.write_all(&frame)?;
    port.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_trip() {
        let frames = [
            Frame::Started,
            Frame::Stdout(b"out\0\xff".to_vec()),
            Frame::Stderr(b"err".to_vec()),
            Frame::Stdin(Vec::new()),
            Frame::Resize(50, 132),
            Frame::Failed("why".into()),
            Frame::Exit(7),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write_to(&mut bytes).unwrap());
        let mut port = &bytes[..];
        for frame in &frames {
            assert_eq!(&Frame::read_from(&mut port).unwrap(), frame);
        }
        assert!(matches!(Frame::read_from(&mut port), Err(FrameError::Closed)));
    }

    #[test]
    fn long_output_goes_out_in_pieces_and_empty_output_not_at_all() {
        let mut bytes = Vec::new();
        Frame::Stdout(Vec::new()).write_to(&mut bytes).unwrap();
        assert!(bytes.is_empty());
        let long: Vec<u8> = (0..MAX_DATA * 2 + 1).map(|i| i as u8).collect();
        Frame::Stdout(long.clone()).write_to(&mut bytes).unwrap();
        let (mut port, mut seen) = (&bytes[..], Vec::new());
        while let Ok(Frame::Stdout(piece)) = Frame::read_from(&mut port) {
            assert!(piece.len() <= MAX_DATA);
            seen.extend(piece);
        }
        assert_eq!(seen, long);
    }

    #[test]
    fn frames_are_taken_from_a_buffer_only_when_whole() {
        let mut bytes = Vec::new();
        Frame::Stdout(b"abc".to_vec()).write_to(&mut bytes).unwrap();
        let whole = bytes.clone();
        for cut in 0..whole.len() {
            let mut part = whole[..cut].to_vec();
            assert!(matches!(Frame::take_from(&mut part), Ok(None)), "cut at {cut}");
            assert_eq!(part, whole[..cut]);
        }
        Frame::Exit(3).write_to(&mut bytes).unwrap();
        assert_eq!(Frame::take_from(&mut bytes).unwrap(), Some(Frame::Stdout(b"abc".to_vec())));
        assert_eq!(Frame::take_from(&mut bytes).unwrap(), Some(Frame::Exit(3)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn garbage_is_refused_before_it_allocates() {
        assert!(matches!(Frame::read_from(&mut &b"o\xff\xff\xff\xff"[..]), Err(FrameError::Garbage(_))));
        assert!(matches!(Frame::read_from(&mut &b"?\0\0\0\0"[..]), Err(FrameError::Garbage(_))));
        assert!(matches!(Frame::read_from(&mut &b"X\x02\0\0\0ab"[..]), Err(FrameError::Garbage(_))));
        assert!(matches!(Frame::read_from(&mut &b"o\x05\0\0\0ab"[..]), Err(FrameError::Closed)));
    }
}
