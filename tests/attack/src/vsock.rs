//! The vsock device: packets of the guest, and a host that connects, accepts, reads, writes and closes.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;

use hutch_devices::virtio::vsock::{Vsock, VsockDeviceConfig, VsockHandle};

use crate::driver::{self, Device, Part};
use crate::script::Script;

const GUEST: u64 = 3;
const LISTENER: u32 = 50;
/// The host gives its own ports from here on.
const HOST_PORTS: u32 = 1 << 30;

struct Host {
    handle: VsockHandle,
    listener: Receiver<UnixStream>,
    answers: Vec<Receiver<io::Result<UnixStream>>>,
    streams: Vec<UnixStream>,
}

impl Device for Host {
    /// A packet (VIRTIO 1.2, 5.10.6), or buffers for packets.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        let kind = script.u8();
        if kind < 0x40 {
            return (0, vec![Part::Write(script.pick(&[4096u32, 4096, 64, 44, 43, 0]))]);
        }
        let mut header = [0; 44];
        let (cids, ports) = (script.u8(), script.u8());
        let cid = |odd| if odd { u64::from(cids) } else { GUEST };
        header[..8].copy_from_slice(&cid(cids == 0xff).to_le_bytes());
        header[8..16].copy_from_slice(&(if cids == 0xfe { 9u64 } else { 2 }).to_le_bytes());
        header[16..20].copy_from_slice(&u32::from(ports & 3).to_le_bytes());
        let to = [LISTENER, LISTENER, HOST_PORTS + u32::from(ports >> 6), 99][usize::from(ports >> 2 & 3)];
        header[20..24].copy_from_slice(&to.to_le_bytes());
        let payload = if kind & 1 == 0 { script.string() } else { Vec::new() };
        let len = if script.u8() < 0xf0 { payload.len() as u32 } else { script.u32() };
        header[24..28].copy_from_slice(&len.to_le_bytes());
        header[28] = if kind >= 0xf8 { script.u8() } else { 1 };
        header[30] = script.u8() % 9;
        header[32] = script.u8() % 8;
        let (allocated, forwarded) = if kind & 2 == 0 { (1 << 18, 0) } else { (script.u32(), script.u32()) };
        header[36..40].copy_from_slice(&u32::to_le_bytes(allocated));
        header[40..44].copy_from_slice(&u32::to_le_bytes(forwarded));
        (1, vec![Part::Read(header.to_vec()), Part::Read(payload)].into_iter().filter(|part| !is_empty(part)).collect())
    }

    fn host(&mut self, script: &mut Script<'_>) {
        self.streams.extend(self.listener.try_iter());
        self.streams.extend(self.answers.iter().filter_map(|answer| answer.try_recv().ok()?.ok()));
        let which = usize::from(script.u8()).checked_rem(self.streams.len());
        match (script.u8() % 5, which) {
            (0, _) => self.answers.extend(self.handle.connect_later(u32::from(script.u8() % 4)).ok()),
            (1, _) => drop(self.answers.pop()),
            (2, Some(which)) => drop(self.streams.swap_remove(which)),
            (3, Some(which)) => drop(write(&self.streams[which], &script.string())),
            (_, Some(which)) => drop(read(&self.streams[which])),
            _ => {}
        }
    }
}

fn is_empty(part: &Part) -> bool {
    matches!(part, Part::Read(bytes) if bytes.is_empty())
}

fn write(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    stream.write(bytes)
}

fn read(mut stream: &UnixStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    stream.read(&mut [0; 5000])
}

/// Attacks the vsock device.
pub fn attack(data: &[u8]) {
    let (device, handle) = Vsock::new(VsockDeviceConfig { guest_cid: GUEST });
    let listener = handle.listen(LISTENER).expect("a free port");
    let mut host = Host { handle, listener, answers: Vec::new(), streams: Vec::new() };
    driver::run(Box::new(device), driver::memory(), &mut host, &mut Script::new(data));
}
