//! Setup before the command runs: the frame port, kernel modules, host name, loopback, limits.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::kmod::{finit_module, ModuleInitFlags};
use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::sys::resource::{setrlimit, Resource};

use crate::Result;

/// The driver announces ports from a work item, shortly after it has bound.
const PORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens the virtio-serial port that carries frames.
pub(crate) fn open_port() -> Result<File> {
    let begin = Instant::now();
    let path = loop {
        if let Some(path) = find_port()? {
            break path;
        }
        if begin.elapsed() > PORT_TIMEOUT {
            return Err(format!("no virtio-serial port named {} appeared", hutch_testbed::PORT).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.map_err(|e| format!("cannot open {}: {e}", path.display()).into())
}

fn find_port() -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = Path::new("/dev").join(entry.file_name());
        if name.trim_end() == hutch_testbed::PORT && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Loads the modules listed in the file `order` of `dir`. A kernel with everything built in has no list.
pub(crate) fn load_modules(dir: &Path) -> Result<()> {
    let order = fs::read_to_string(dir.join("order")).unwrap_or_default();
    for name in order.lines() {
        let file = File::open(dir.join(name)).map_err(|e| format!("module {name} of the initramfs: {e}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(format!("loading module {name}: {error}").into()),
        }
    }
    Ok(())
}

/// Largest difference between two measurements of the TSC at which KVM still runs guests with the processor's own TSC, in
/// parts per million. The kernel accepts no second measurement that differs by more than 10,000 from the first.
const TSC_TOLERANCE: &str = "20000";

/// Keeps KVM from correcting the TSC of guests.
///
/// This kernel measures its TSC twice: at its start, and more exactly some two seconds later. KVM takes the first value for the
/// rate that guests are to have and the second for the processor's. From 250 parts per million of difference on, which half of
/// all starts in ordinary time come to, it would make up for it in software, and timers of guests would fire late by this
/// machine's uptime unless their VMM sets the rate by KVM_SET_TSC_KHZ. Not an error where KVM has no such parameter.
pub(crate) fn accept_tsc() -> Result<()> {
    let path = Path::new("/sys/module/kvm/parameters/tsc_tolerance_ppm");
    match fs::write(path, TSC_TOLERANCE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("writing {}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// Sets the host name and limits, and brings the loopback interface up.
pub(crate) fn settings() -> Result<()> {
    nix::unistd::sethostname("testbed").map_err(|e| format!("setting the host name: {e}"))?;
    // The limits that systemd gives a login; the kernel's default hard limit of 4096 is far lower.
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1 << 19).map_err(|e| format!("setting the limit of open files: {e}"))?;
    loopback_up().map_err(|e| format!("bringing the loopback interface up: {e}"))?;
    Ok(())
}

/// Keeps this process and all its children off the first of several processors: there, QEMU may lose state changes of guest
/// entries and exits. `machine.rs` of the host half explains this.
pub(crate) fn leave_first_processor() -> Result<()> {
    let this = nix::unistd::Pid::from_raw(0);
    let keep_off = || {
        let mut all = sched_getaffinity(this)?;
        if (1..CpuSet::count()).any(|cpu| all.is_set(cpu).unwrap_or(false)) {
            all.unset(0)?;
            sched_setaffinity(this, &all)?;
        }
        Ok(())
    };
    keep_off().map_err(|error: nix::Error| format!("leaving the first processor: {error}").into())
}

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

#[expect(unsafe_code, reason = "no crate in the tree wraps this ioctl")]
fn loopback_up() -> nix::Result<()> {
    use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is an open socket and the request outlives the call.
    unsafe { set_interface_flags(std::os::fd::AsRawFd::as_raw_fd(&socket), &request) }?;
    Ok(())
}
