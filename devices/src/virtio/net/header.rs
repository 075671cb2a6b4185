//! The header before each frame (VIRTIO 1.2, 5.1.6), and the offloads that the negotiated features allow in it. Pure
//! functions.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

/// Length in bytes. With `VIRTIO_F_VERSION_1` it does not depend on whether buffers are merged.
pub const HEADER: usize = 12;
/// Offset of the flags.
pub const FLAGS_AT: u32 = 0;
/// Offset of the number of buffers: 16 bits, little-endian.
pub const NUM_BUFFERS_AT: u32 = 10;
/// Length of an Ethernet header with a VLAN tag.
pub const ETHERNET: u32 = 18;
/// Length of the shortest frame: an Ethernet header.
pub const MIN_FRAME: u32 = 14;
/// Length of the longest frame, with segmentation offload.
pub const MAX_FRAME: u32 = 65535 + ETHERNET;

/// Whether `features` holds bit number `bit`.
pub fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

/// Whether `features` has checksum offload where it has segmentation offload (5.1.3.1).
pub fn consistent(features: u64) -> bool {
    let any = |bits: [u32; 2]| bits.iter().any(|bit| has(features, *bit));
    let host = !any([VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6]) || has(features, VIRTIO_NET_F_CSUM);
    let guest = !any([VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6]) || has(features, VIRTIO_NET_F_GUEST_CSUM);
    host && guest
}

/// Whether a driver that has negotiated `features` may send a frame with this header.
pub fn may_send(header: &[u8; HEADER], features: u64) -> bool {
    let [flags, gso, ..] = *header;
    let flags_ok = match u32::from(flags) {
        0 => true,
        VIRTIO_NET_HDR_F_NEEDS_CSUM => has(features, VIRTIO_NET_F_CSUM),
        _ => false,
    };
    let gso_ok = match u32::from(gso) {
        VIRTIO_NET_HDR_GSO_NONE => true,
        VIRTIO_NET_HDR_GSO_TCPV4 => has(features, VIRTIO_NET_F_HOST_TSO4),
        VIRTIO_NET_HDR_GSO_TCPV6 => has(features, VIRTIO_NET_F_HOST_TSO6),
        _ => false,
    };
    flags_ok && gso_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_hold_only_negotiated_offloads() {
        let header = |flags, gso| {
            let mut header = [0; HEADER];
            (header[0], header[1]) = (flags, gso);
            header
        };
        let all = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6;
        assert!(may_send(&header(0, 0), 0));
        for (flags, gso) in [(1, 0), (1, 1), (1, 4)] {
            assert!(may_send(&header(flags, gso), all));
            assert!(!may_send(&header(flags, gso), 0));
        }
        // UDP, ECN, receive-side flags and the unknown are never offered.
        for (flags, gso) in [(1, 3), (1, 5), (1, 0x81), (2, 0), (4, 0), (0x80, 0), (0, 0xff)] {
            assert!(!may_send(&header(flags, gso), all), "{flags} {gso}");
        }
    }

    #[test]
    fn segmentation_needs_checksums() {
        assert!(consistent(0));
        assert!(consistent(1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO6));
        assert!(!consistent(1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4));
        assert!(!consistent(1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO6));
    }
}
