//! The header of a vsock packet (VIRTIO 1.2, 5.10.6): bytes to fields and back. Pure functions.

/// Bytes of a header on the wire.
pub const HEADER_LEN: usize = 44;
/// The host's address (5.10.4).
pub const HOST_CID: u64 = 2;
/// Most payload bytes that the device puts in one packet. Many drivers have the same bound.
pub const MAX_PAYLOAD: u32 = 64 * 1024;

/// `type`: a stream (5.10.6).
pub const TYPE_STREAM: u16 = 1;

/// SHUTDOWN flag: the sender will not receive any more bytes (5.10.6.6).
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// SHUTDOWN flag: the sender will not send any more bytes.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `op` (5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts a connection.
    Response = 2,
    /// Refuses or ends a connection.
    Rst = 3,
    /// Ends one or both directions, as the `SHUTDOWN_` flags say.
    Shutdown = 4,
    /// Carries payload.
    Rw = 5,
    /// Reports the state of the sender's buffer.
    CreditUpdate = 6,
    /// Asks for a `CreditUpdate`.
    CreditRequest = 7,
}

impl Op {
    fn from_wire(op: u16) -> Option<Self> {
        Some(match op {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports of a connection, which identify it because the addresses of both ends are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The host's port.
    pub host: u32,
    /// The guest's port.
    pub guest: u32,
}

/// A header (`struct virtio_vsock_hdr`). A guest may send any values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketHeader {
    /// Sender's address.
    pub src_cid: u64,
    /// Receiver's address.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Bytes of payload that follow.
    pub len: u32,
    /// Kind of socket.
    pub kind: u16,
    /// Raw operation, which [`Self::op`] decodes.
    pub op: u16,
    /// Meaning depends on the operation.
    pub flags: u32,
    /// Size of the sender's receive buffer.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of its receive buffer so far, modulo 2^32.
    pub fwd_cnt: u32,
}

impl PacketHeader {
    /// Parses the little-endian bytes of the wire.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The bytes of the wire.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = &mut bytes[..];
        put(&mut rest, self.src_cid.to_le_bytes());
        put(&mut rest, self.dst_cid.to_le_bytes());
        put(&mut rest, self.src_port.to_le_bytes());
        put(&mut rest, self.dst_port.to_le_bytes());
        put(&mut rest, self.len.to_le_bytes());
        put(&mut rest, self.kind.to_le_bytes());
        put(&mut rest, self.op.to_le_bytes());
        put(&mut rest, self.flags.to_le_bytes());
        put(&mut rest, self.buf_alloc.to_le_bytes());
        put(&mut rest, self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The operation, or `None` if it is unknown.
    pub fn op(&self) -> Option<Op> {
        Op::from_wire(self.op)
    }

    /// The connection that a packet from the guest belongs to.
    pub fn ports_from_guest(&self) -> Ports {
        Ports { host: self.dst_port, guest: self.src_port }
    }

    /// A packet to the guest without payload or credit.
    pub fn to_guest(guest_cid: u64, ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            op: op as u16,
            ..Self::default()
        }
    }

    /// The RST that refuses this packet from the guest: same kind of socket, addresses swapped.
    pub fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Rst as u16,
            ..Self::default()
        }
    }
}

/// Takes the first `N` bytes of `rest`. They exist, since the fields add up to [`HEADER_LEN`].
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (first, tail) = rest.split_first_chunk().expect("the fields of a vsock header fill it exactly");
    *rest = tail;
    *first
}

fn put<const N: usize>(rest: &mut &mut [u8], field: [u8; N]) {
    let (first, tail) =
        std::mem::take(rest).split_first_chunk_mut().expect("the fields of a vsock header fill it exactly");
    *first = field;
    *rest = tail;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_lie_where_virtio_5_10_6_puts_them() {
        let mut bytes = [0u8; HEADER_LEN];
        bytes[0] = 3;
        bytes[8] = 2;
        bytes[16..20].copy_from_slice(&0x0102_0304u32.to_le_bytes());
        bytes[20..24].copy_from_slice(&1024u32.to_le_bytes());
        bytes[24..28].copy_from_slice(&7u32.to_le_bytes());
        bytes[28] = 1;
        bytes[30] = 5;
        bytes[32] = 3;
        bytes[36..40].copy_from_slice(&65536u32.to_le_bytes());
        bytes[40..44].copy_from_slice(&9u32.to_le_bytes());
        let header = PacketHeader::parse(&bytes);
        let expected = PacketHeader {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            dst_port: 1024,
            len: 7,
            kind: TYPE_STREAM,
            op: 5,
            flags: SHUTDOWN_BOTH,
            buf_alloc: 65536,
            fwd_cnt: 9,
        };
        assert_eq!(header, expected);
        assert_eq!(header.op(), Some(Op::Rw));
        assert_eq!(header.ports_from_guest(), Ports { host: 1024, guest: 0x0102_0304 });
    }

    #[test]
    fn unknown_operations_are_recognized() {
        for op in [0, 8, 0x100, u16::MAX] {
            assert_eq!(PacketHeader { op, ..PacketHeader::default() }.op(), None);
        }
    }

    #[test]
    fn a_refusal_goes_back_where_the_packet_came_from() {
        let packet = PacketHeader {
            src_cid: 3,
            dst_cid: 2,
            src_port: 10,
            dst_port: 20,
            kind: 2,
            op: 1,
            ..PacketHeader::default()
        };
        let rst = packet.refusal();
        assert_eq!((rst.src_cid, rst.dst_cid, rst.src_port, rst.dst_port), (2, 3, 20, 10));
        assert_eq!((rst.kind, rst.op(), rst.len), (2, Some(Op::Rst), 0));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_and_come_back(bytes in prop::array::uniform32(any::<u8>()), tail in prop::array::uniform12(any::<u8>())) {
            let mut wire = [0u8; HEADER_LEN];
            wire[..32].copy_from_slice(&bytes);
            wire[32..].copy_from_slice(&tail);
            prop_assert_eq!(PacketHeader::parse(&wire).to_bytes(), wire);
        }
    }
}
