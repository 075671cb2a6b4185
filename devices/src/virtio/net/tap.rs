//! A tap interface of the host, with virtio headers before its frames. All of its system calls are in this file.
//!
//! The VMM's main thread opens it, or gets it from a process that may create interfaces.

#![expect(unsafe_code, reason = "ioctls of the tun driver")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{fcntl, FcntlArg, FdFlag, OFlag};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6};

use super::backend::NetBackend;
use super::header::{has, HEADER};

const TUN: &str = "/dev/net/tun";
/// Ethernet frames without packet information, with a virtio header.
#[expect(clippy::cast_possible_truncation, reason = "0x5002")]
const FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;

/// A tap that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The tun driver cannot be opened.
    #[error("cannot open {TUN}: load the tun module, or pass an open tap")]
    OpenTun {
        /// Error of `open(2)`.
        source: io::Error,
    },
    /// The name cannot be the name of an interface.
    #[error("\"{0}\" is not a valid name of an interface: give 1 to 15 bytes without '/', '%' and blanks")]
    Name(String),
    /// The interface cannot be created or attached to.
    #[error(
        "cannot attach to tap {name}: run with CAP_NET_ADMIN or as its owner, and detach any other process from it"
    )]
    Attach {
        /// Name of the interface.
        name: String,
        /// Error of TUNSETIFF.
        source: io::Error,
    },
    /// The file descriptor that was passed is not a tap.
    #[error(
        "the file descriptor that was passed is not a tap interface: open /dev/net/tun and attach it with TUNSETIFF"
    )]
    NotTap {
        /// Error of TUNGETIFF.
        source: io::Error,
    },
    /// The tap that was passed has other flags.
    #[error("tap {name} has flags {flags:#x}: attach it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags {
        /// Name of the interface.
        name: String,
        /// The flags that TUNGETIFF returns.
        flags: libc::c_int,
    },
    /// The driver is too old, or the file descriptor is broken.
    #[error("tap {name}: {operation} failed: use Linux 4.0 or later")]
    Configure {
        /// Name of the interface.
        name: String,
        /// The call, such as TUNSETVNETHDRSZ.
        operation: &'static str,
        /// The error of the call.
        source: io::Error,
    },
}

/// An attached tap interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Attaches to the tap called `name`. If there is none, the kernel creates it and removes it with the process.
    /// Without a name the kernel chooses one.
    pub fn open(name: Option<&str>) -> Result<Self, TapError> {
        let mut request = request(name.unwrap_or_default())?;
        request.ifr_ifru.ifru_flags = FLAGS;
        // The standard library sets O_CLOEXEC.
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).clone();
        let fd = OwnedFd::from(options.open(TUN).map_err(|source| TapError::OpenTun { source })?);
        let attach_error = |source| TapError::Attach { name: name.unwrap_or("(any)").to_owned(), source };
        // SAFETY: TUNSETIFF reads and writes a struct ifreq, which `request` is.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) }).map_err(attach_error)?;
        let tap = Self { fd, name: interface_name(&request) };
        tap.configure()?;
        Ok(tap)
    }

    /// Takes a tap that another process attached with the flags that [`Tap::open`] uses.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes a struct ifreq, which `request` is.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &mut request) })
            .map_err(|source| TapError::NotTap { source })?;
        // SAFETY: TUNGETIFF has set the flags, and all bit patterns are valid.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let name = interface_name(&request);
        if flags & FLAGS != FLAGS {
            return Err(TapError::Flags { name, flags: flags.into() });
        }
        let tap = Self { fd, name };
        tap.configure()?;
        Ok(tap)
    }

    /// The interface's name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn configure(&self) -> Result<(), TapError> {
        let name = self.name.as_str();
        let error = |operation| move |source| TapError::Configure { name: name.to_owned(), operation, source };
        #[expect(clippy::cast_possible_truncation, reason = "12 bytes")]
        let size = HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) })
            .map_err(error("TUNSETVNETHDRSZ"))?;
        let little: libc::c_int = 1;
        // SAFETY: TUNSETVNETLE reads an int.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETVNETLE, &little) })
            .map_err(error("TUNSETVNETLE"))?;
        let flags = || -> nix::Result<()> {
            let flags = OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?);
            fcntl(&self.fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            fcntl(&self.fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            Ok(())
        };
        flags().map_err(|source| error("setting file descriptor flags")(source.into()))
    }
}

impl NetBackend for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        let offloads = [
            (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
        ];
        let offloads =
            offloads.iter().filter(|(feature, _)| has(features, *feature)).fold(0, |all, (_, bit)| all | bit);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A request about the interface called `name`, which may be empty.
fn request(name: &str) -> Result<libc::ifreq, TapError> {
    // SAFETY: a struct ifreq is numbers and arrays of them, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let odd = |byte: u8| byte == b'/' || byte == b'%' || byte <= b' ';
    if name.len() >= request.ifr_name.len() || name.bytes().any(odd) || [".", ".."].contains(&name) {
        return Err(TapError::Name(name.to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn interface_name(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused_before_anything_is_opened() {
        for name in ["sixteen-bytes-xx", "a/b", "a b", "tap%d", "..", "tap\n"] {
            assert!(matches!(Tap::open(Some(name)), Err(TapError::Name(given)) if given == name));
        }
    }

    #[test]
    fn a_file_descriptor_that_is_not_a_tap_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Tap::from_fd(file.into()), Err(TapError::NotTap { .. })));
    }
}
