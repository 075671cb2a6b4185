//! Threads that wait for a file of the host which does not answer.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::{Opcode, OutHeader};
use vm_memory::ByteValued;

use super::client::{config, Client};
use super::device::Fs;
use super::tests::{share, tree};
use crate::testing::Buffer;
use crate::virtio::{ActivateError, Activation, DeviceInterrupt, VirtioDevice};

/// `F_SETSIG` of fcntl(2), which libc does not have: the signal of a broken lease.
const F_SETSIG: i32 = 10;

/// A lease of a host's file: a thread that opens the file waits until the lease is given back.
#[expect(unsafe_code, reason = "leases, which neither the standard library nor nix knows")]
fn lease(file: &fs::File, kind: i32) -> i32 {
    // SAFETY: takes numbers. SIGURG is ignored by default.
    unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    // SAFETY: takes numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
}

#[expect(unsafe_code, reason = "as above")]
fn is_breaking(file: &fs::File) -> bool {
    // SAFETY: takes numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) != libc::F_WRLCK }
}

#[test]
fn a_thread_that_waits_for_the_host_is_left_behind_until_it_ends() {
    let dir = tree();
    let mut device = Fs::new(config(&share(&dir))).unwrap();
    device.set_stop_timeout(Duration::from_millis(20));
    let mut client = Client::new(device, 0);
    client.init(u64::MAX);
    let node = client.walk("file");
    let file = fs::OpenOptions::new().write(true).open(share(&dir).join("file")).unwrap();
    // The guest's own descriptors are O_PATH, which do not count.
    assert_eq!(lease(&file, libc::F_WRLCK), 0, "{}", std::io::Error::last_os_error());
    let body = [0; 8];
    let header = client.header(Opcode::Open, node, body.len());
    let (message, room) = ([header.as_slice(), &body].concat(), size_of::<OutHeader>() as u32 + 100);
    client.requests().send(&[Buffer::Readable(&message), Buffer::Writable(room)]);
    wait_until(|| is_breaking(&file));
    assert!(client.device.pause().is_err());
    assert!(client.device.deactivate().is_err());
    let (ram, line) = (client.session.ram.again(), client.session.line.clone());
    let activation = |queues| Activation {
        mem: ram.share(),
        queues,
        interrupt: Arc::new(DeviceInterrupt::new(Box::new(line.clone()))),
        features: 0,
        threads: Default::default(),
    };
    assert!(matches!(client.device.activate(activation(Vec::new())), Err(ActivateError::Stuck(_))));
    let interrupts = line.count();
    assert_eq!(lease(&file, libc::F_UNLCK), 0);
    wait_until(|| client.device.deactivate().is_ok());
    assert_eq!((client.requests().used(), line.count()), (None, interrupts));
    // The device works again.
    assert!(matches!(client.device.activate(activation(Vec::new())), Err(ActivateError::MissingQueue(0))));
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
}
