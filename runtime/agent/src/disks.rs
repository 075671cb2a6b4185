//! Block devices by serial number (VIRTIO 1.2, 5.2.6: at most 20 bytes), never by name. Connection threads.
//!
//! A drive slot is a virtio disk whose medium the host changes while the guest runs. The kernel learns the new capacity
//! by an interrupt. But only for a new device does the kernel read whether the medium is read-only, and drop the cached
//! blocks of the last medium. So the agent unbinds the driver from a slot and binds it again before it mounts the
//! medium.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;

use crate::failure::{self, not_found, wrong_state, Outcome};

/// Block devices, each with its serial number.
const BLOCK_DEVICES: &str = "/sys/block";
/// The driver of virtio disks.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";
/// How long a file system may keep its device after the agent unmounted it: the kernel may still be destroying the
/// namespaces of ended containers.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// The device node for the source of a mount: `serial:ID` is a disk, `slot:ID` the medium of a drive slot; any other
/// text is returned unchanged.
///
/// # Errors
/// `NotFound` if there is no such disk.
pub fn source(text: &str) -> Outcome<String> {
    let sys = Path::new(BLOCK_DEVICES);
    match (text.strip_prefix("serial:"), text.strip_prefix("slot:")) {
        (Some(serial), _) => Ok(node(&find(sys, serial)?)),
        (_, Some(serial)) => {
            renew(sys, Path::new(DRIVER), &find(sys, serial)?)?;
            Ok(node(&find(sys, serial)?))
        }
        _ => Ok(text.to_owned()),
    }
}

fn node(name: &str) -> String {
    format!("/dev/{name}")
}

/// Name of the block device with that serial number.
fn find(sys: &Path, serial: &str) -> Outcome<String> {
    let entries = fs::read_dir(sys).map_err(|error| failure::io(sys.display(), &error))?;
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let found = fs::read_to_string(sys.join(&name).join("serial")).unwrap_or_default();
        if !serial.is_empty() && found.trim_end_matches('\n') == serial {
            return Ok(name);
        }
    }
    Err(not_found(format!("the guest has no block device with serial number {serial:?}")))
}

/// Unbinds the driver from the device and binds it again. The device's name may change.
fn renew(sys: &Path, driver: &Path, name: &str) -> Outcome<()> {
    let failed = |error: io::Error| failure::io(format_args!("renewing disk {name}"), &error);
    let link = fs::read_link(sys.join(name).join("device")).map_err(failed)?;
    let device = link.file_name().unwrap_or_default().as_encoded_bytes();
    fs::write(driver.join("unbind"), device).map_err(failed)?;
    fs::write(driver.join("bind"), device).map_err(failed)
}

/// The block device that is mounted at `target`, if any; the last mount there counts.
pub fn mounted_at(target: &str) -> Option<PathBuf> {
    device_in(&fs::read_to_string("/proc/self/mounts").ok()?, target)
}

fn device_in(mounts: &str, target: &str) -> Option<PathBuf> {
    // The kernel writes blanks and the like as octal numbers; targets from the host contain none.
    let mut lines = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?))
    });
    let (source, _) = lines.rfind(|(_, point)| *point == target)?;
    source.starts_with("/dev/").then(|| source.into())
}

/// Waits until no file system uses `device`. Then all data is written out and the host may take the medium away.
///
/// # Errors
/// `WrongState` if a file system still uses it after [`RELEASE_TIMEOUT`].
pub fn wait_released(device: &Path) -> Outcome<()> {
    let deadline = Deadline::after(RELEASE_TIMEOUT);
    loop {
        // The kernel refuses as long as a mounted file system claims the device (open(2)).
        match open(device, OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::EBUSY) if Instant::now() < deadline => sleep(PAUSE),
            Err(Errno::EBUSY) => {
                return Err(wrong_state(format!("disk {} is still in use after it was unmounted", device.display())))
            }
            // Opened, or the device is gone and thus unused.
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use hutch_agent_proto::RemoteErrorKind;

    use super::*;

    #[test]
    fn p_186_block_devices_are_found_by_serial_number() {
        let sys = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "root\n"), ("vdb", "data-1\n"), ("loop0", "")] {
            fs::create_dir(sys.path().join(name)).unwrap();
            if !serial.is_empty() {
                fs::write(sys.path().join(name).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(find(sys.path(), "data-1").unwrap(), "vdb");
        for missing in ["data", "", "data-1\n"] {
            assert_eq!(find(sys.path(), missing).unwrap_err().kind, RemoteErrorKind::NotFound);
        }
        assert_eq!(source("/dev/vda").unwrap(), "/dev/vda");
        for missing in ["serial:none", "slot:none"] {
            assert_eq!(source(missing).unwrap_err().kind, RemoteErrorKind::NotFound, "{missing}");
        }
    }

    #[test]
    fn the_driver_of_a_slot_is_unbound_and_bound_again() {
        let dir = tempfile::tempdir().unwrap();
        let (sys, driver) = (dir.path().join("block"), dir.path().join("driver"));
        fs::create_dir_all(sys.join("vda")).unwrap();
        fs::create_dir(&driver).unwrap();
        symlink("../../../virtio3", sys.join("vda/device")).unwrap();
        renew(&sys, &driver, "vda").unwrap();
        for file in ["unbind", "bind"] {
            assert_eq!(fs::read_to_string(driver.join(file)).unwrap(), "virtio3");
        }
        assert!(renew(&sys, &driver, "vdb").is_err());
    }

    #[test]
    fn the_device_of_a_mount_is_found_in_the_table() {
        let table = "/dev/vda /run/a ext4 rw 0 0\ntmpfs /run/b tmpfs rw 0 0\n/dev/vdb /run/a xfs rw 0 0\nodd\n";
        assert_eq!(device_in(table, "/run/a"), Some("/dev/vdb".into()));
        assert_eq!(device_in(table, "/run/b"), None);
        assert_eq!(device_in(table, "/run"), None);
        wait_released(Path::new("/dev/null")).unwrap();
        wait_released(Path::new("/nowhere")).unwrap();
    }
}
