//! Frames: a little-endian `u32` length and that many bytes of JSON.

use std::io::{self, Read, Write};

use serde::{de::DeserializeOwned, Serialize};

/// Largest payload of a frame in bytes. A reader refuses a longer one before it reads any of it.
pub const MAX_FRAME: usize = 4 << 20;

/// Bytes that a reader allocates at a time, lest a forged length makes it allocate the whole.
const READ_STEP: usize = 64 << 10;

/// A frame that could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("agent channel: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame.
    #[error("agent channel closed in the middle of a message")]
    Truncated,
    /// The frame is larger than [`MAX_FRAME`].
    #[error("agent message of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLarge(usize),
    /// The payload is not the expected message.
    #[error("agent message not understood: {0}")]
    Parse(#[from] serde_json::Error),
}

/// The bytes of one frame: its length and `message`.
///
/// # Errors
/// [`FrameError::TooLarge`] if it does not fit a frame.
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - 4;
    if len > MAX_FRAME {
        return Err(FrameError::TooLarge(len));
    }
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

/// Sends one message as one write.
///
/// # Errors
/// [`FrameError::TooLarge`] if it does not fit a frame, [`FrameError::Io`] if the stream fails.
pub fn write_frame<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode_frame(message)?)?;
    Ok(stream.flush()?)
}

/// Receives one message; `None` if the stream ended between frames.
///
/// # Errors
/// Drop the stream after any error: it is no longer at the start of a frame.
pub fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    match read_payload(stream)? {
        Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// Receives the payload of one frame without parsing it; `None` if the stream ended between frames.
///
/// # Errors
/// Drop the stream after any error: it is no longer at the start of a frame.
pub fn read_payload(stream: &mut impl Read) -> Result<Option<Vec<u8>>, FrameError> {
    let mut head = [0; 4];
    match read_full(stream, &mut head)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(FrameError::Truncated),
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLarge(len));
    }
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let start = bytes.len();
        let end = len.min(start + READ_STEP);
        bytes.resize(end, 0);
        if read_full(stream, &mut bytes[start..])? != end - start {
            return Err(FrameError::Truncated);
        }
    }
    Ok(Some(bytes))
}

/// Reads until `buf` is full or the stream ends; returns the bytes read.
fn read_full(stream: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match stream.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_end_cleanly() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &"one").unwrap();
        write_frame(&mut bytes, &"two").unwrap();
        let mut stream = &bytes[..];
        assert_eq!(read_frame::<String>(&mut stream).unwrap().as_deref(), Some("one"));
        assert_eq!(read_frame::<String>(&mut stream).unwrap().as_deref(), Some("two"));
        assert!(read_frame::<String>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_noticed() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &"payload").unwrap();
        for cut in 1..bytes.len() {
            let result = read_frame::<String>(&mut &bytes[..cut]);
            assert!(matches!(result, Err(FrameError::Truncated)), "cut at {cut}: {result:?}");
        }
    }

    #[test]
    fn a_forged_length_is_refused() {
        let head = (MAX_FRAME as u32 + 1).to_le_bytes();
        assert!(matches!(read_frame::<String>(&mut &head[..]), Err(FrameError::TooLarge(_))));
        // The largest legal length without bytes behind it must not make the reader allocate that much.
        let head = (MAX_FRAME as u32).to_le_bytes();
        assert!(matches!(read_frame::<String>(&mut &head[..]), Err(FrameError::Truncated)));
    }

    #[test]
    fn an_oversized_message_is_not_sent() {
        let mut bytes = Vec::new();
        let big = "x".repeat(MAX_FRAME);
        assert!(matches!(write_frame(&mut bytes, &big), Err(FrameError::TooLarge(_))));
        assert!(bytes.is_empty());
    }
}
