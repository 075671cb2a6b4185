//! Lets a process exit without waiting for the teardown of its VM.
//!
//! The thread that drops the last reference to a virtual machine waits in `kvm_destroy_vm` for grace periods of the
//! host's kernel: three ticks of its clock or more in which nothing is done. On process exit it is the exiting process
//! that waits, and its parent with it. An io_uring ring that has the descriptor as a registered file holds a reference,
//! too, and the kernel takes a ring down on a worker thread of its own ("io_ring_exit_work"): that thread waits instead.
//! The guest's memory is not affected: it goes with the process.

#![expect(unsafe_code, reason = "io_uring system calls, which libc and nix do not wrap")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Words of `struct io_uring_params`.
const PARAMS: usize = 30;
/// `IORING_REGISTER_FILES` of `linux/io_uring.h`.
const REGISTER_FILES: libc::c_uint = 2;

/// Creates a ring that holds a reference to `file`: the last reference elsewhere is not the last one until the ring is
/// gone.
///
/// # Errors
/// The kernel has no io_uring, or does not allow it here.
pub(super) fn hold_open(file: impl AsFd) -> io::Result<OwnedFd> {
    let mut params = [0_u32; PARAMS];
    // SAFETY: `params` is as large as struct io_uring_params, all zeros ask for nothing special, and the kernel fills it in.
    let ring = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) })?;
    // SAFETY: the kernel has just created this descriptor, and it has no other owner. It closes on exec.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let files = [file.as_fd().as_raw_fd()];
    // SAFETY: the call reads one descriptor from `files`, which outlives it.
    let answer =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILES, files.as_ptr(), 1) };
    check(answer).map(|_| ring)
}

fn check(answer: libc::c_long) -> io::Result<libc::c_int> {
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;

    /// The other end of a pipe reports when the last reference is gone.
    #[test]
    fn a_held_file_stays_open_until_some_time_after_the_ring_is_closed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let ring = match hold_open(&writer) {
            Ok(ring) => ring,
            // Hosts may forbid io_uring (kernel.io_uring_disabled, seccomp).
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)), "{error}");
                // Bypasses the capture of output, in the form that `cargo xtask test` counts.
                return io::stdout()
                    .write_all(format!("SKIPPED: io_uring is not available here: {error}\n").as_bytes())
                    .unwrap();
            }
        };
        // A ring cannot register a ring.
        assert_eq!(hold_open(&ring).unwrap_err().raw_os_error(), Some(libc::EBADF));
        drop(writer);
        let (sender, closed) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(reader.read(&mut [0])));
        closed.recv_timeout(Duration::from_millis(50)).expect_err("it was closed while the ring held it");
        drop(ring);
        assert_eq!(closed.recv_timeout(Duration::from_secs(20)).expect("closed").unwrap(), 0);
    }
}
