//! The first steps of PID 1, on the main thread. No failure here may be silent: no other process can report it.
//!
//! The agent announces readiness before it mounts: the host takes longer to answer the greeting than the agent takes to
//! mount a few file systems.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::{AGENT_PORT, HOST_CID, HOST_PORT};
use nix::fcntl::{open, OFlag};
use nix::mount::{mount, MsFlags};
use nix::sys::signal::SigSet;
use nix::sys::stat::{umask, Mode};
use nix::sys::utsname::uname;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::agent::{Agent, AgentOptions, Containers};
use crate::connection::HostConnection;
use crate::container::NoContainers;
use crate::log::{self, Level};
use crate::marks::{self, Port};
use crate::power::{halt, GuestPower};
use crate::rlimits::raise_own;
use crate::server::Server;
use crate::session::opening;
use crate::sys::{exit_now, is_open, use_one_arena};
use crate::vsock::{dial, VsockListener};
use crate::{memory, modules};

/// How long the vsock device may take to appear after the modules are loaded.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);
/// The agent's own file systems: type, mount point, flags, options.
const MOUNTS: &[(&str, &str, MsFlags, &str)] = &[
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    ("proc", "/proc", SAFE, ""),
    ("sysfs", "/sys", SAFE, ""),
    ("tmpfs", "/run", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=0755"),
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "ptmxmode=0666,mode=0620,gid=5"),
];

/// Runs as PID 1 of a guest without containers, until the guest is powered off.
pub fn run() -> ! {
    run_with(Box::new(NoContainers))
}

/// Directory of the agent's own files in a guest.
pub const RUN_DIR: &str = "/run/hutch";

/// Blocks all signals of process 1. Call it before there are other threads.
///
/// The kernel drops signals that the guest's processes send to process 1, unless its first thread blocks them. The C
/// library blocks them for a moment whenever it makes a thread, and a signal that came then would end the guest. A
/// signal that all threads block for good stays pending instead. Processes that the agent starts do not inherit the
/// mask.
pub fn block_signals() {
    if let Err(errno) = SigSet::all().thread_block() {
        log::write(Level::Warn, format_args!("signals cannot be blocked: {errno}"));
    }
}

/// Runs as PID 1 until the guest is powered off; `containers` runs the containers.
pub fn run_with(containers: Box<dyn Containers>) -> ! {
    block_signals();
    marks::enable();
    let port = Port::open();
    port.mark(b'I');
    occupy_standard_descriptors();
    use_one_arena();
    log::use_kernel_ring();
    std::panic::set_hook(Box::new(|panic| {
        log::write(Level::Fatal, panic);
        exit_now(101)
    }));

    modules::start(Path::new("/modules"));
    let kernel = uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default();
    let listener = VsockListener::bind(AGENT_PORT).unwrap_or_else(|error| give_up("listening on vsock", &error));
    // The host plugs in more memory once it knows that the guest is up.
    let memory_at_boot = memory::total();
    let pushed = push(&kernel);
    port.mark(b'A');
    drop(port);

    mount_own();
    modules::load_for_devices();
    let options = AgentOptions {
        run_dir: PathBuf::from(RUN_DIR),
        limits: raise_own(),
        kernel,
        memory_at_boot,
        containers,
        power: Box::new(GuestPower),
    };
    let agent = Agent::new(options).unwrap_or_else(|error| give_up("starting the agent", &error));
    let server = Server::new(agent);
    if let Some(connection) = pushed {
        server.adopt(connection, true);
    }
    match server.serve(&listener) {
        Ok(()) => halt(),
        Err(error) => give_up("accepting connections", &error),
    }
}

/// Connects to the host and greets it: the guest is up. A host that does not listen may still connect by itself.
fn push(kernel: &str) -> Option<HostConnection> {
    let connection = match dial(HOST_CID, HOST_PORT, DEVICE_TIMEOUT) {
        Ok(connection) => connection,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::ECONNREFUSED | libc::ETIMEDOUT)) => {
            log::write(Level::Warn, format_args!("the host does not listen on vsock port {HOST_PORT}: {error}"));
            return None;
        }
        Err(error) => give_up("no vsock device; is it configured, and its driver in the kernel or in /modules", &error),
    };
    let greeting = opening(kernel).map_err(io::Error::other);
    match greeting.and_then(|bytes| (&connection).write_all(&bytes)) {
        Ok(()) => Some(connection),
        Err(error) => {
            log::write(Level::Warn, format_args!("greeting the host: {error}"));
            None
        }
    }
}

/// Fills descriptors 0 to 2, lest a socket gets one of them, if the kernel found no console to open for them.
fn occupy_standard_descriptors() {
    while !is_open(2) {
        match open("/", OFlag::O_PATH, Mode::empty()) {
            // Kept open for good.
            Ok(fd) => std::mem::forget(fd),
            Err(_) => return,
        }
    }
}

/// Mounts the agent's file systems and points the standard descriptors at `/dev/null`. A kernel that lacks one of these
/// file systems is still usable to some extent.
fn mount_own() {
    umask(Mode::empty());
    for &(fstype, target, flags, data) in MOUNTS {
        let _ = fs::create_dir(target);
        if let Err(errno) = mount(Some(fstype), target, Some(fstype), flags, Some(data)) {
            log::write(Level::Error, format_args!("mounting {fstype} at {target}: {}", errno.desc()));
        }
    }
    umask(Mode::from_bits_truncate(0o022));
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let null = null.as_fd();
        let _ = dup2_stdin(null).and_then(|()| dup2_stdout(null)).and_then(|()| dup2_stderr(null));
    }
}

/// Reports on the console and powers off.
fn give_up(what: &str, error: &io::Error) -> ! {
    log::write(Level::Fatal, format_args!("{what}: {error}; powering off"));
    halt()
}
