//! The network device, on a socket in place of a tap interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hutch_devices::virtio::net::{Net, NetBackend};
use nix::sys::socket::{recv, send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};

use crate::driver::{self, Device, Part};
use crate::script::Script;

const HEADER: usize = 12;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Socket(OwnedFd);

impl NetBackend for Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _features: u64) -> io::Result<()> {
        Ok(())
    }
}

/// The far end of the interface.
struct Wire(Option<OwnedFd>);

impl Device for Wire {
    /// A frame with its header (VIRTIO 1.2, 5.1.6) in one buffer or two, or buffers for frames.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        if script.u8() & 1 == 0 {
            let parts = (0..=script.u8() % 3).map(|_| Part::Write(u32::from(script.u16() % 3000))).collect();
            return (0, parts);
        }
        let header = script.bytes(HEADER).to_vec();
        let frame = script.string();
        match script.u8() % 3 {
            0 => (1, vec![Part::Read(header), Part::Read(frame)]),
            1 => (1, vec![Part::Read([header, frame].concat())]),
            _ => (1, vec![Part::Read(header), Part::Write(4), Part::Read(frame)]),
        }
    }

    fn host(&mut self, script: &mut Script<'_>) {
        let Some(wire) = &self.0 else { return };
        match script.u8() {
            0xff => self.0 = None,
            how if how & 1 == 0 => {
                let frame = [script.bytes(HEADER), &script.string()].concat();
                // A full queue drops the frame, as an interface does.
                let _ = send(wire.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            }
            _ => while recv(wire.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT).is_ok_and(|len| len > 0) {},
        }
    }
}

/// Attacks the network device.
pub fn attack(data: &[u8]) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair of sockets");
    let mut script = Script::new(data);
    let mtu = (script.u8() & 1 != 0).then_some(1400);
    let device = Net::with_backend("net0".into(), Arc::new(Socket(near)), MAC, mtu).expect("valid options");
    driver::run(Box::new(device), driver::memory(), &mut Wire(Some(far)), &mut script);
}
