//! Memory that the host plugs in after the boot: the agent waits until the kernel has added it, then raises the limits
//! that the kernel derived from the memory at boot. Runs on connection threads.
//!
//! The host asks the virtio-mem driver, which adds memory block by block. The kernel brings each block online by itself
//! and announces it as an event (kobject_uevent). The agent compares sysinfo(2), the memory that programs can have.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use nix::errno::Errno;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::socket::{
    bind, recv, setsockopt, socket, sockopt, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use nix::sys::sysinfo::sysinfo;
use nix::sys::time::{TimeVal, TimeValLike};

use crate::failure::{io, system, unsupported, wrong_state, Outcome};

/// How long the kernel may take to add all memory. A GiB takes some tens of milliseconds.
const ONLINE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two checks without an event: a block that the kernel had already and that only becomes fuller makes
/// none.
const CHECK_INTERVAL_MS: i64 = 100;
/// The virtio-mem driver; missing if the kernel does not have it.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_mem";
/// The multicast group of the kernel's own events.
const KERNEL_EVENTS: u32 = 1;

/// Memory that the guest has now, in bytes.
pub fn total() -> u64 {
    sysinfo().map_or(0, |info| info.ram_total())
}

/// Waits until the guest has `more` bytes beyond the `at_boot` bytes that it booted with. Then raises the kernel's
/// limits to the values of a boot with all of that memory. `fresh`: no process has changed a limit yet, so the agent
/// does not read them first.
///
/// # Errors
/// `Unsupported` if the kernel cannot add memory, `WrongState` if it has not added it in time.
pub fn await_more(at_boot: u64, more: u64, fresh: bool) -> Outcome<()> {
    if more == 0 {
        return Ok(());
    }
    let goal = at_boot.saturating_add(more);
    if total() < goal {
        if !Path::new(DRIVER).exists() {
            let remedy = "boot it with all its memory: --memory-growth off";
            return Err(unsupported(format!("the guest's kernel cannot add memory (no driver virtio_mem); {remedy}")));
        }
        let events = events().map_err(|errno| system("listening for memory", errno))?;
        let deadline = Deadline::after(ONLINE_TIMEOUT);
        await_goal(goal, total, || next(&events), || Instant::now() >= deadline)?;
    }
    adapt(goal, fresh)
}

/// Compares the memory after each event, and once before the first.
fn await_goal(
    goal: u64,
    mut total: impl FnMut() -> u64,
    mut next: impl FnMut() -> Outcome<()>,
    mut late: impl FnMut() -> bool,
) -> Outcome<()> {
    loop {
        let now = total();
        if now >= goal {
            return Ok(());
        }
        if late() {
            let (now, goal) = (now >> 20, goal >> 20);
            return Err(wrong_state(format!("the guest's kernel has added memory up to {now} MiB only, not {goal}")));
        }
        next()?;
    }
}

fn events() -> Result<OwnedFd, Errno> {
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let fd = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(CHECK_INTERVAL_MS))?;
    Ok(fd)
}

/// Waits for an event, a lost event, or [`CHECK_INTERVAL_MS`]: the caller compares the memory in each case.
fn next(events: &OwnedFd) -> Outcome<()> {
    let mut event = [0; 4096];
    match recv(events.as_raw_fd(), &mut event, MsgFlags::empty()) {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Ok(()),
        Err(errno) => Err(system("listening for memory", errno)),
    }
}

/// Bytes of memory for each thread, as in fork_init() of the kernel.
const THREAD_SHARE: u64 = 128 << 10;

/// The kernel's settings that depend on the memory at boot, as they would be with `total` bytes. Of a setting with
/// several numbers the last one decides.
fn limits(total: u64) -> Vec<(&'static str, String)> {
    let (pages, threads) = (total >> 12, total / THREAD_SHARE);
    let share = |limit: u64| format!("{} {limit} {}", limit / 4 * 3, limit / 4 * 6);
    let mut all = vec![
        ("kernel/threads-max", threads.to_string()),
        ("fs/file-max", ((total >> 10) / 10).to_string()),
        ("fs/epoll/max_user_watches", (total / 25 / 192).to_string()),
        ("fs/inotify/max_user_watches", (total / 100 / 1300).clamp(8192, 1 << 20).to_string()),
        ("net/ipv4/tcp_mem", share(pages / 16)),
        ("net/ipv4/udp_mem", share(pages / 8)),
        ("net/ipv4/tcp_rmem", format!("4096 131072 {}", (total >> 7).min(6 << 20))),
        ("net/ipv4/tcp_wmem", format!("4096 16384 {}", (total >> 7).min(4 << 20))),
    ];
    for setting in [
        "user/max_user_namespaces",
        "user/max_pid_namespaces",
        "user/max_uts_namespaces",
        "user/max_ipc_namespaces",
        "user/max_net_namespaces",
        "user/max_mnt_namespaces",
        "user/max_cgroup_namespaces",
        "user/max_time_namespaces",
    ] {
        all.push((setting, (threads / 2).to_string()));
    }
    all
}

/// Raises the settings that are too low for `total` bytes; lowers none.
fn adapt(total: u64, fresh: bool) -> Outcome<()> {
    for (name, value) in limits(total) {
        let path = Path::new("/proc/sys").join(name);
        if !fresh && fs::read_to_string(&path).is_ok_and(|now| last(&now) >= last(&value)) {
            continue;
        }
        match fs::write(&path, &value) {
            // A kernel need not have all of these settings.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.map_err(|error| io(format_args!("{name}={value}"), &error))?,
        }
    }
    for resource in [Resource::RLIMIT_NPROC, Resource::RLIMIT_SIGPENDING] {
        let limit = total / THREAD_SHARE / 2;
        let raised = getrlimit(resource).and_then(|(soft, hard)| match soft < limit {
            true => setrlimit(resource, limit, hard.max(limit)),
            false => Ok(()),
        });
        raised.map_err(|errno| system(format_args!("raising {resource:?}"), errno))?;
    }
    Ok(())
}

fn last(numbers: &str) -> Option<u64> {
    numbers.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn memory_is_waited_for_from_event_to_event() {
        let (total, events) = (Cell::new(100), Cell::new(0));
        let next = || {
            events.set(events.get() + 1);
            total.set(total.get() + 10);
            Ok(())
        };
        await_goal(130, || total.get(), next, || false).unwrap();
        assert_eq!((total.get(), events.get()), (130, 3));
        await_goal(130, || total.get(), || panic!("it is there"), || false).unwrap();
    }

    #[test]
    fn memory_that_does_not_come_is_an_error() {
        let checks = Cell::new(0);
        let late = || {
            checks.set(checks.get() + 1);
            checks.get() > 3
        };
        let error = await_goal(300 << 20, || 200 << 20, || Ok(()), late).unwrap_err();
        assert_eq!(error.kind, hutch_agent_proto::RemoteErrorKind::WrongState);
        assert!(error.message.contains("200 MiB only, not 300"), "{}", error.message);
    }

    #[test]
    fn no_memory_is_not_waited_for() {
        assert_eq!(await_more(total(), 0, true), Ok(()));
    }

    #[test]
    fn the_kernels_own_events_can_be_received() {
        // This machine may send none, but the kernel accepts the socket.
        next(&events().unwrap()).unwrap();
    }

    #[test]
    fn limits_grow_with_memory() {
        let small = limits(128 << 20);
        let large = limits(8 << 30);
        assert_eq!(large[0], ("kernel/threads-max", "65536".into()));
        for (small, large) in small.iter().zip(&large) {
            assert_eq!(small.0, large.0);
            assert!(last(&small.1) < last(&large.1), "{small:?} {large:?}");
        }
        assert_eq!(last("1\t2\t34\n"), Some(34));
    }
}
