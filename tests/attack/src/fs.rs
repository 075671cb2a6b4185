//! The file server: FUSE messages of the guest, while another thread changes their bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use hutch_devices::virtio::fs::{Fs, FsDeviceConfig};
use hutch_devices::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{self, Device, Part};
use crate::files;
use crate::script::Script;

const NAMES: [&str; 8] = ["file", "dir", "inner", "link", "new", "..", "../outside/secret", "user.a"];

struct Mount {
    /// Change the bytes of messages while the server works.
    racing: bool,
}

impl Device for Mount {
    /// A message: `struct fuse_in_header` of linux/fuse.h, numbers and names, and room for the reply.
    fn request(&mut self, script: &mut Script<'_>) -> (u16, Vec<Part>) {
        let mut body = Vec::new();
        let opcode = script.u8();
        for _ in 0..script.u8() % 10 {
            match script.u8() % 6 {
                0 => body.extend(u64::from(script.u8()).to_le_bytes()),
                1 => body.extend(script.u64().to_le_bytes()),
                2 => body.extend(u32::from(script.u16()).to_le_bytes()),
                3 => body.extend([script.pick(&NAMES).as_bytes(), b"\0"].concat()),
                4 => body.extend(script.string()),
                _ => body.extend([0; 16]),
            }
        }
        let len = if script.u8() < 0xf0 { 40 + body.len() as u32 } else { script.u32() };
        let mut message = [len.to_le_bytes(), u32::from(opcode % 56).to_le_bytes()].concat();
        message.extend(99u64.to_le_bytes());
        message.extend(u64::from(script.u8() % 8).to_le_bytes());
        let user = script.pick(&[0u32, 0, 1000, u32::MAX]);
        for number in [user, user, 1, 0] {
            message.extend(number.to_le_bytes());
        }
        message.extend(body);
        let cut = usize::from(script.u8());
        let mut parts = vec![Part::Read(message)];
        if cut < 40 {
            let Part::Read(message) = &mut parts[0] else { return (1, parts) };
            let rest = message.split_off(cut.min(message.len()));
            parts.push(Part::Read(rest));
        }
        parts.push(Part::Write(script.pick(&[4096u32, 160, 16, 15, 0])));
        (u16::from(script.u8() & 7 != 0), parts)
    }

    fn around(&mut self, ram: &GuestRam, buffers: &[(u64, u32)], work: &mut dyn FnMut()) -> bool {
        if !self.racing {
            return false;
        }
        let done = AtomicBool::new(false);
        let change = || {
            for at in (0..48).cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                for &(addr, len) in buffers.iter().filter(|(_, len)| *len > 0) {
                    let addr = GuestAddress(addr + u64::from(at % len));
                    let byte: u8 = ram.read_obj(addr).unwrap_or(0);
                    drop(ram.write_obj(byte.wrapping_mul(5).wrapping_add(1), addr));
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(change);
            work();
            done.store(true, Ordering::Relaxed);
        });
        true
    }
}

/// Attacks the file server.
pub fn attack(data: &[u8]) {
    let dir = files::directory();
    let at = |name: &str| dir.path().join(name);
    for sub in ["share", "share/dir", "outside"] {
        std::fs::create_dir(at(sub)).expect("a directory");
    }
    for (name, text) in [("outside/secret", "secret"), ("share/file", "contents"), ("share/dir/inner", "inner")] {
        std::fs::write(at(name), text).expect("a file");
    }
    std::os::unix::fs::symlink("../outside/secret", at("share/link")).expect("a link");
    let mut script = Script::new(data);
    let how = script.u8();
    let read_only = how & 1 != 0;
    let config =
        FsDeviceConfig { id: "fs0".into(), tag: "share".into(), path: at("share"), read_only, ..Default::default() };
    let device = Fs::new(config).expect("a share");
    driver::run(Box::new(device), driver::memory(), &mut Mount { racing: how & 6 == 6 }, &mut script);
    assert_eq!(std::fs::read(at("outside/secret")).expect("the secret"), b"secret");
    assert_eq!(std::fs::read_dir(at("outside")).expect("the directory").count(), 1);
    assert!(!read_only || std::fs::read(at("share/file")).expect("the file") == b"contents");
}
