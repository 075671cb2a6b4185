//! The file server: FUSE messages of the guest, while another thread changes their bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use hutch_devices::virtio::fs::{Fs, FsDeviceConfig};
use hutch_devices::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{self, Device, Part};
use crate::files;
use crate::script::Script;

const NAMES: [&str; 8] = ["file", "dir", "inner", "link", "new", "..", "../outside/secret", "user.a"];

/// Times that a request lets the thread that changes bytes run first.
const YIELDS: usize = 16;

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
        if self.racing {
            Changer::get().during(ram, buffers, work);
        }
        self.racing
    }
}

/// A thread that changes the bytes of messages. There is one for all inputs: to make a thread takes longer than a request.
struct Changer {
    job: Mutex<Option<Job>>,
    begun: Condvar,
    /// Changes so far.
    count: AtomicUsize,
}

/// Memory, and the buffers in it that change.
struct Job {
    ram: GuestRam,
    buffers: Vec<(u64, u32)>,
}

impl Changer {
    fn get() -> &'static Self {
        static CHANGER: LazyLock<Changer> = LazyLock::new(|| {
            std::thread::spawn(|| Changer::get().run());
            Changer { job: Mutex::default(), begun: Condvar::new(), count: AtomicUsize::new(0) }
        });
        &CHANGER
    }

    fn lock(&self) -> MutexGuard<'_, Option<Job>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work` while the thread changes the buffers.
    fn during(&self, ram: &GuestRam, buffers: &[(u64, u32)], work: &mut dyn FnMut()) {
        let buffers = buffers.iter().copied().filter(|(_, len)| *len > 0).collect();
        let before = self.count.load(Ordering::Relaxed);
        *self.lock() = Some(Job { ram: ram.clone(), buffers });
        self.begun.notify_one();
        // Most often it has begun by then, but a request need not wait for a busy machine.
        (0..YIELDS).take_while(|_| self.count.load(Ordering::Relaxed) == before).for_each(|_| std::thread::yield_now());
        work();
        *self.lock() = None;
    }

    /// The thread.
    fn run(&self) {
        for at in (0..48).cycle() {
            let job = self.begun.wait_while(self.lock(), |job| job.is_none());
            let job = job.unwrap_or_else(PoisonError::into_inner);
            let Some(Job { ram, buffers }) = &*job else { continue };
            for &(addr, len) in buffers {
                let addr = GuestAddress(addr + u64::from(at % len));
                let byte: u8 = ram.read_obj(addr).unwrap_or(0);
                drop(ram.write_obj(byte.wrapping_mul(5).wrapping_add(1), addr));
            }
            self.count.fetch_add(1, Ordering::Relaxed);
        }
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
