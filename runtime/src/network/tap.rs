//! Persistent tap devices: created in a pod's namespace, opened by its VMM by name.
#![expect(unsafe_code, reason = "the two requests of tun devices have no safe form")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Longest name of an interface.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);

/// Creates a tap device in this thread's network namespace that stays when no process has it open. Reuses a device of
/// that name that is not in use.
pub(super) fn make_tap(name: &str) -> io::Result<()> {
    let file = open_tap(name)?;
    // SAFETY: TUNSETPERSIST takes a number.
    unsafe { tun_set_persist(file.as_raw_fd(), 1) }?;
    Ok(())
}

/// Opens a tap device, creating it if necessary.
pub(super) fn open_tap(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['\0', '/']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot name an interface")));
    }
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: zero is a valid value for each of its fields.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF takes the address of an ifreq, which lives throughout the call.
    unsafe { tun_set_iff(file.as_raw_fd(), std::ptr::from_mut(&mut request) as libc::c_ulong) }?;
    Ok(file)
}
