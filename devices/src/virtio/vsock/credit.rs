//! Flow control of one connection (VIRTIO 1.2, 5.10.6.3): counters only. Its one user is `connection.rs`, on the
//! device's thread: bytes of the guest pass `receive` and `forwarded` there, bytes of the host `pass_on`.
//!
//! Each side reports the size of its receive buffer and the number of bytes that it has taken from it. The sender keeps
//! fewer bytes in flight than the buffer has free. All counters wrap at 2^32.

use super::packet::PacketHeader;

/// The device's receive buffer per connection, in bytes: a guest may send this much before the host reads.
pub const BUF_ALLOC: u32 = 256 * 1024;

/// The device reports freed space when the guest counts fewer free bytes than this.
const UPDATE_BELOW: u32 = BUF_ALLOC / 2;

/// Counters of both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// Bytes sent to the guest.
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// Bytes received from the guest.
    received: u32,
    /// Received bytes that have left the device's buffer.
    forwarded: u32,
    /// `forwarded` as last reported to the guest.
    last_fwd_cnt: u32,
}

impl Credit {
    /// Takes the state of the guest's buffer from a packet.
    pub fn update_peer(&mut self, header: &PacketHeader) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
    }

    /// Free bytes in the guest's buffer, which may be sent now. 0 if the guest's counters are invalid.
    pub fn peer_free(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub(self.sent.wrapping_sub(self.peer_fwd_cnt))
    }

    /// Counts `len` bytes as sent; at most [`Self::peer_free`].
    pub fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// Counts `len` bytes as received. False if the guest exceeds its credit.
    #[must_use]
    pub fn receive(&mut self, len: u32) -> bool {
        let fits = self.buffered().checked_add(len).is_some_and(|total| total <= BUF_ALLOC);
        if fits {
            self.received = self.received.wrapping_add(len);
        }
        fits
    }

    /// Counts `len` received bytes as gone from the device's buffer.
    pub fn forward(&mut self, len: u32) {
        debug_assert!(len <= self.buffered(), "more forwarded than received");
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Number of bytes received and not forwarded.
    pub fn buffered(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Whether the guest counts too few free bytes because it does not know of freed ones.
    pub fn update_due(&self) -> bool {
        let in_flight = self.received.wrapping_sub(self.last_fwd_cnt);
        self.forwarded != self.last_fwd_cnt && BUF_ALLOC.saturating_sub(in_flight) < UPDATE_BELOW
    }

    /// Writes the state of the device's buffer into a packet that is about to be sent.
    pub fn fill_header(&mut self, header: &mut PacketHeader) {
        header.buf_alloc = BUF_ALLOC;
        header.fwd_cnt = self.forwarded;
        self.last_fwd_cnt = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(buf_alloc: u32, fwd_cnt: u32) -> PacketHeader {
        PacketHeader { buf_alloc, fwd_cnt, ..PacketHeader::default() }
    }

    #[test]
    fn sending_stops_at_the_peers_buffer_and_goes_on_as_it_is_emptied() {
        let mut credit = Credit::default();
        assert_eq!(credit.peer_free(), 0);
        credit.update_peer(&peer(1000, 0));
        assert_eq!(credit.peer_free(), 1000);
        credit.send(1000);
        assert_eq!(credit.peer_free(), 0);
        credit.update_peer(&peer(1000, 400));
        assert_eq!(credit.peer_free(), 400);
        credit.update_peer(&peer(500, 400));
        assert_eq!(credit.peer_free(), 0);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = Credit { sent: u32::MAX - 9, peer_fwd_cnt: u32::MAX - 9, ..Credit::default() };
        credit.update_peer(&peer(100, u32::MAX - 9));
        credit.send(50);
        assert_eq!(credit.peer_free(), 50);
        credit.update_peer(&peer(100, 40));
        assert_eq!(credit.peer_free(), 100);
    }

    #[test]
    fn a_peer_that_reports_more_bytes_taken_than_sent_gets_nothing() {
        let mut credit = Credit::default();
        credit.update_peer(&peer(1000, 1));
        assert_eq!(credit.peer_free(), 0);
    }

    #[test]
    fn receiving_is_bounded_by_the_devices_buffer() {
        let mut credit = Credit::default();
        assert!(credit.receive(BUF_ALLOC));
        assert!(!credit.receive(1));
        credit.forward(10);
        assert!(credit.receive(10));
        assert!(!credit.receive(u32::MAX));
        assert_eq!(credit.buffered(), BUF_ALLOC);
    }

    #[test]
    fn an_update_is_due_once_the_guest_believes_the_buffer_is_half_full() {
        let mut credit = Credit::default();
        assert!(credit.receive(UPDATE_BELOW));
        credit.forward(UPDATE_BELOW);
        assert!(!credit.update_due());
        assert!(credit.receive(1));
        assert!(credit.update_due());
        let mut header = PacketHeader::default();
        credit.fill_header(&mut header);
        assert_eq!((header.buf_alloc, header.fwd_cnt), (BUF_ALLOC, UPDATE_BELOW));
        assert!(!credit.update_due());
    }
}
