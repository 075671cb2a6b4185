//! What the driver asks and what it is told (VIRTIO 1.2, 5.15.6): bytes in, a [`MemRequest`] out, and the answer back.

/// Bytes of a request: type, padding, address, number of blocks, padding.
pub const REQUEST_LEN: usize = 24;
/// Bytes of an answer: type, padding, state.
pub const RESPONSE_LEN: usize = 10;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Blocks side by side, as the driver names them. Nothing about them is certain yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first.
    pub addr: u64,
    /// How many.
    pub blocks: u16,
}

/// A driver's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemRequest {
    /// To use these blocks from now on.
    Plug(Span),
    /// To give these blocks back.
    Unplug(Span),
    /// To give all blocks back.
    UnplugAll,
    /// To know which of these are plugged.
    State(Span),
    /// None of the above.
    Unknown(u16),
}

impl MemRequest {
    /// Reads a request; every sequence of bytes is one.
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

/// What the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemResponse {
    /// Done.
    Ack,
    /// Not now: there would be more memory than the host wants.
    Nack,
    /// Not now: the host could not do it.
    Busy,
    /// Such blocks cannot be asked for.
    Error,
    /// Done; and this is how the blocks are.
    State(BlockState),
}

/// How blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// All are plugged.
    Plugged,
    /// None is.
    Unplugged,
    /// Some are.
    Mixed,
}

impl MemResponse {
    /// The answer as the driver reads it.
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
    fn answers_are_written_as_the_specification_lays_them_out() {
        assert_eq!(MemResponse::Ack.bytes(), [0; 10]);
        assert_eq!(MemResponse::Nack.bytes()[0], 1);
        assert_eq!(MemResponse::Busy.bytes()[0], 2);
        assert_eq!(MemResponse::Error.bytes()[0], 3);
        assert_eq!(MemResponse::State(BlockState::Mixed).bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(MemResponse::State(BlockState::Unplugged).bytes()[8], 1);
    }
}
