//! Requests of the driver and their responses (VIRTIO 1.2, 5.15.6): parses a [`MemRequest`], writes a [`MemResponse`].

/// Bytes of a request: type, padding, address, number of blocks, padding.
pub const REQUEST_LEN: usize = 24;
/// Bytes of a response: type, padding, state.
pub const RESPONSE_LEN: usize = 10;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Adjacent blocks as the driver names them, not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first block.
    pub addr: u64,
    /// Number of blocks.
    pub blocks: u16,
}

/// A request of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemRequest {
    /// Plug these blocks: the guest uses them from now on.
    Plug(Span),
    /// Unplug these blocks.
    Unplug(Span),
    /// Unplug all blocks.
    UnplugAll,
    /// Report whether these blocks are plugged.
    State(Span),
    /// A type of request that the device does not know.
    Unknown(u16),
}

impl MemRequest {
    /// Parses a request. Every sequence of bytes is valid.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Self {
        let [t0, t1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, n0, n1, ..] = *bytes;
        let span =
            Span { addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), blocks: u16::from_le_bytes([n0, n1]) };
        match u16::from_le_bytes([t0, t1]) {
            PLUG => Self::Plug(span),
            UNPLUG => Self::Unplug(span),
            UNPLUG_ALL => Self::UnplugAll,
            STATE => Self::State(span),
            other => Self::Unknown(other),
        }
    }
}

/// The response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemResponse {
    /// The request has been executed.
    Ack,
    /// Refused: more than the requested size would be plugged.
    Nack,
    /// Refused: an operation of the host failed, and the driver may try again.
    Busy,
    /// The request or its blocks are invalid.
    Error,
    /// The state of the blocks.
    State(BlockState),
}

/// The state of a span of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// All blocks are plugged.
    Plugged,
    /// No block is plugged.
    Unplugged,
    /// Some blocks are plugged.
    Mixed,
}

impl MemResponse {
    /// The response as the driver reads it.
    pub fn bytes(self) -> [u8; RESPONSE_LEN] {
        let (kind, state): (u8, u8) = match self {
            Self::Ack | Self::State(BlockState::Plugged) => (0, 0),
            Self::State(BlockState::Unplugged) => (0, 1),
            Self::State(BlockState::Mixed) => (0, 2),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_specification_lays_them_out() {
        let mut bytes = [0; REQUEST_LEN];
        bytes[8..16].copy_from_slice(&0x1_2345_6000_u64.to_le_bytes());
        bytes[16..18].copy_from_slice(&0x0203_u16.to_le_bytes());
        let span = Span { addr: 0x1_2345_6000, blocks: 0x0203 };
        for (kind, request) in [
            (0, MemRequest::Plug(span)),
            (1, MemRequest::Unplug(span)),
            (2, MemRequest::UnplugAll),
            (3, MemRequest::State(span)),
            (0xff04, MemRequest::Unknown(0xff04)),
        ] {
            bytes[..2].copy_from_slice(&u16::to_le_bytes(kind));
            assert_eq!(MemRequest::parse(&bytes), request);
        }
    }

    #[test]
    fn responses_are_written_as_the_specification_lays_them_out() {
        assert_eq!(MemResponse::Ack.bytes(), [0; 10]);
        assert_eq!(MemResponse::Nack.bytes()[0], 1);
        assert_eq!(MemResponse::Busy.bytes()[0], 2);
        assert_eq!(MemResponse::Error.bytes()[0], 3);
        assert_eq!(MemResponse::State(BlockState::Mixed).bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(MemResponse::State(BlockState::Unplugged).bytes()[8], 1);
    }
}
