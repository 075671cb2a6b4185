//! One-off settings of the guest: host name, clock, entropy, sysctls, processors. Runs on connection threads.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{clock_settime, ClockId};
use nix::unistd::sethostname;

use crate::failure::{invalid, io, not_found, system, Outcome};
use crate::sys::add_entropy;

/// Longest host name in bytes (`__NEW_UTS_LEN`, P-180).
const MAX_HOSTNAME: usize = 64;
/// Most bytes of entropy in one request; the kernel's pool holds 32.
const MAX_ENTROPY: usize = 4096;

/// Sets the host name.
///
/// # Errors
/// `Invalid` if it is too long or contains anything but visible ASCII.
pub fn set_hostname(name: &str) -> Outcome<()> {
    if name.len() > MAX_HOSTNAME || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
        return Err(invalid(format!("host name {name:?} is not 1 to {MAX_HOSTNAME} visible characters")));
    }
    sethostname(name).map_err(|errno| system("setting the host name", errno))
}

/// Sets the real-time clock.
///
/// # Errors
/// `System` if the kernel does not accept the time.
pub fn set_clock(unix_ns: u64) -> Outcome<()> {
    // Both parts of any u64 fit.
    let time = TimeSpec::new((unix_ns / 1_000_000_000) as i64, (unix_ns % 1_000_000_000) as i64);
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(|errno| system("setting the clock", errno))
}

/// Credits random bytes of the host to the guest's pool.
pub fn seed(entropy: &[u8]) -> Outcome<()> {
    if entropy.len() > MAX_ENTROPY {
        return Err(invalid(format!("{} bytes of entropy; {MAX_ENTROPY} is the most", entropy.len())));
    }
    let pool = File::open("/dev/urandom").map_err(|error| io("/dev/urandom", &error))?;
    add_entropy(pool, entropy).map_err(|errno| system("adding entropy", errno))
}

/// Sets kernel parameters.
///
/// # Errors
/// `Invalid` for a malformed name, `NotFound` for an unknown one, `System` if the kernel refuses the value.
pub fn set_sysctls(settings: &[(String, String)]) -> Outcome<()> {
    for (name, value) in settings {
        let path = sysctl_path(name).ok_or_else(|| invalid(format!("sysctl {name:?} is not a name")))?;
        fs::write(&path, value).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => not_found(format!("sysctl {name:?} does not exist in the guest")),
            _ => io(format_args!("sysctl {name}={value:?}"), &error),
        })?;
    }
    Ok(())
}

/// Path of a sysctl. If the first separator is a dot, dots and slashes change places, as in sysctl(8):
/// `net.ipv4.conf.eth0/1.forwarding` is a setting of `eth0.1`.
fn sysctl_path(name: &str) -> Option<PathBuf> {
    let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let relative: String = if dotted { name.chars().map(swap).collect() } else { name.to_string() };
    let good =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_graphic());
    (relative.len() < 256 && relative.split('/').all(good)).then(|| Path::new("/proc/sys").join(relative))
}

/// Brings the first `count` processors online and takes the others offline.
///
/// # Errors
/// `NotFound` if the guest has fewer.
pub fn online_cpus(count: u32) -> Outcome<()> {
    online(Path::new("/sys/devices/system/cpu"), count)
}

fn online(processors: &Path, count: u32) -> Outcome<()> {
    let switch = |cpu: u32| processors.join(format!("cpu{cpu}/online"));
    let mut beyond = count.max(1);
    while let Ok(state) = fs::read_to_string(switch(beyond)) {
        if state.trim() == "1" {
            fs::write(switch(beyond), "0")
                .map_err(|error| io(format_args!("taking processor {beyond} offline"), &error))?;
        }
        beyond += 1;
    }
    for cpu in 1..count {
        let switch = switch(cpu);
        match fs::read_to_string(&switch) {
            Ok(state) if state.trim() == "1" => {}
            Ok(_) => {
                fs::write(&switch, "1").map_err(|error| io(format_args!("bringing processor {cpu} online"), &error))?
            }
            // Without a switch the processor cannot go offline, or does not exist.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                if !switch.parent().is_some_and(Path::exists) {
                    return Err(not_found(format!("the guest has {cpu} processors, not {count}")));
                }
            }
            Err(error) => return Err(io(format_args!("processor {cpu}"), &error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), Some(PathBuf::from(path)));
        }
        for bad in ["", ".", "..", "net..x", "net/../../etc", "/etc/passwd", "kernel.a b", "kernel/.", "a.//.b"] {
            assert_eq!(sysctl_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn p_180_host_names_are_bounded() {
        assert!(set_hostname(&"x".repeat(65)).is_err());
        assert!(set_hostname("a b").is_err());
    }

    #[test]
    fn the_clock_and_entropy_have_bounds() {
        assert_eq!(seed(&[0; MAX_ENTROPY + 1]).unwrap_err().kind, hutch_agent_proto::RemoteErrorKind::Invalid);
    }

    #[test]
    fn a_missing_processor_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cpu0")).unwrap();
        assert_eq!(online(dir.path(), 1), Ok(()));
        assert_eq!(online(dir.path(), 2).unwrap_err().kind, hutch_agent_proto::RemoteErrorKind::NotFound);
    }

    #[test]
    fn p_183_the_first_processors_are_online_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let switch = |cpu: u32| dir.path().join(format!("cpu{cpu}/online"));
        for cpu in 0..4 {
            fs::create_dir(dir.path().join(format!("cpu{cpu}"))).unwrap();
            // The first one has no switch.
            if cpu > 0 {
                fs::write(switch(cpu), "0\n").unwrap();
            }
        }
        let states = || (1..4).map(|cpu| fs::read_to_string(switch(cpu)).unwrap().trim().to_owned());
        for (count, expected) in [(3, ["1", "1", "0"]), (1, ["0", "0", "0"]), (4, ["1"; 3]), (2, ["1", "0", "0"])] {
            online(dir.path(), count).unwrap();
            assert_eq!(states().collect::<Vec<_>>(), expected, "{count}");
        }
        assert!(online(dir.path(), 5).is_err());
    }
}
