//! A network device on a real tap interface. The test runs in user and network namespaces of its own, so it needs no
//! privileges. It is skipped if the host does not allow such namespaces.

#![expect(unsafe_code, reason = "ioctls that give the test's interface an address")]

use std::fs;
use std::io::Write;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use hutch_devices::testing::Buffer::{Readable, Writable};
use hutch_devices::testing::Driver;
use hutch_devices::virtio::net::{Net, NetDeviceConfig, Tap, TapError};
use hutch_devices::virtio::VirtioDevice;

const INSIDE: &str = "HUTCH_TEST_INSIDE_NAMESPACE";
const NAME: &str = "hutch-t0";
const HEADER: usize = 12;

#[test]
fn a_real_tap_carries_frames_both_ways() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let namespaces = ["--user", "--map-root-user", "--net"];
    let possible = Command::new("unshare").args(namespaces).args(["test", "-w", "/dev/net/tun"]).output();
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        // Written directly, since the test harness would swallow it: skipped tests are counted.
        let what = "no user and network namespaces, or no /dev/net/tun, on this host";
        return std::io::stdout().write_all(format!("SKIPPED: {what}: {possible:?}\n").as_bytes()).unwrap();
    }
    let me = std::env::current_exe().unwrap();
    let test = ["--exact", "a_real_tap_carries_frames_both_ways", "--nocapture"];
    let output = Command::new("unshare").args(namespaces).arg(me).args(test).env(INSIDE, "1").output().unwrap();
    assert!(output.status.success(), "the test failed in its namespaces: {output:?}");
}

fn inside() {
    let tap = Tap::open(Some(NAME)).unwrap();
    assert_eq!(tap.name(), NAME);
    assert!(matches!(Tap::open(Some(NAME)), Err(TapError::Attach { .. })), "one user at a time");
    assert!(Tap::open(None).unwrap().name().starts_with("tap"));
    let plain = OwnedFd::from(fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap());
    assert!(matches!(Tap::from_fd(plain), Err(TapError::NotTap { .. })));

    configure(libc::SIOCSIFADDR, |request| {
        // SAFETY: a sockaddr_in is a sockaddr of the same size.
        request.ifr_ifru.ifru_addr = unsafe { mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address()) };
    });
    configure(libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short);

    let config = NetDeviceConfig { id: "net0".into(), tap, mac: [2, 0, 0, 0, 0, 1], mtu: Some(1500) };
    let net = Net::new(config).unwrap();
    let features = net.features();
    let mut driver = Driver::started(Box::new(net), features);
    assert!(!driver.needs_reset(), "the tap takes the offloads");
    to_guest(&mut driver);
    to_host(&mut driver);
}

fn address() -> libc::sockaddr_in {
    // SAFETY: zeroes are a valid sockaddr_in.
    let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_addr.s_addr = u32::from_ne_bytes([10, 9, 8, 1]);
    address
}

fn configure(operation: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) {
    // SAFETY: zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    fill(&mut request);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: both operations read a struct ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, &request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// The host resolves a neighbour: its ARP request is a broadcast that must arrive among all other frames of the host.
fn to_guest(driver: &mut Driver) {
    let socket = UdpSocket::bind("10.9.8.1:0").unwrap();
    socket.send_to(b"hello", "10.9.8.2:9").unwrap();
    loop {
        let request = driver.queues[0].send(&[Writable(2048)]);
        let len = driver.queues[0].wait_used().len as usize;
        let frame = &request.response(&driver.ram)[HEADER..len];
        let arp = frame[12..14] == [8, 6] && frame[38..42] == [10, 9, 8, 2];
        if arp {
            assert_eq!(frame[..6], [0xff; 6]);
            return;
        }
    }
}

/// The guest sends a frame, which the host must count.
fn to_host(driver: &mut Driver) {
    let before = received();
    let mut frame = vec![0; HEADER];
    frame.extend([0xff; 6]);
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend([7; 46]);
    driver.queues[1].transact(&[Readable(&frame)]);
    assert_eq!(received(), before + 1);
}

/// Number of frames that the host has received on the tap.
fn received() -> u64 {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(NAME)?.strip_prefix(':')).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
