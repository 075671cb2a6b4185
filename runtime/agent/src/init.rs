//! The first steps of PID 1, on the main thread. Nothing here may fail silently: there is nobody to ask.
//!
//! Ready first, furnished second: the host's answer to the greeting takes longer than mounting a few file systems.

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

use crate::connection::Connection;
use crate::container::{Containers, NoContainers};
use crate::log::{self, Level};
use crate::marks::{self, Port};
use crate::power::{halt, Guest};
use crate::rlimits::raise_own;
use crate::server::{Agent, Options};
use crate::session::opening;
use crate::sys::{exit_now, is_open, use_one_arena};
use crate::vsock::{dial, VsockListener};
use crate::{memory, modules};

/// How long the vsock device may take to appear after the modules are loaded.
const DEVICE_PATIENCE: Duration = Duration::from_secs(5);

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);
/// The agent's own file systems: type, mount point, flags, options.
const MOUNTS: &[(&str, &str, MsFlags, &str)] = &[
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    ("proc", "/proc", SAFE, ""),
    ("sysfs", "/sys", SAFE, ""),
    ("tmpfs", "/run", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=0755"),
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "ptmxmode=0666,mode=0620,gid=5"),
];

/// Runs as PID 1 until the guest is powered off; without containers.
pub fn run() -> ! {
    run_with(Box::new(NoContainers))
}

/// Directory of the agent's own files in a guest.
pub const RUN_DIR: &str = "/run/hutch";

/// Keeps signals away from process 1; called before there are other threads. The kernel ignores those that the guest's own
/// processes send it unless its first thread blocks them, as the C library does for a moment whenever that makes a thread:
/// a signal that came then would end the guest. Blocked by all threads for good, it stays pending. Processes that the agent
/// starts do not inherit this.
pub fn block_signals() {
    if let Err(errno) = SigSet::all().thread_block() {
        log::write(Level::Warn, format_args!("signals cannot be blocked: {errno}"));
    }
}

/// Runs as PID 1 until the guest is powered off; `containers` runs containers.
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
    // The host plugs more in once it knows that the guest is up.
    let memory_at_boot = memory::total();
    let pushed = push(&kernel);
    port.mark(b'A');
    drop(port);

    mount_own();
    modules::load_for_devices();
    let options = Options {
        run_dir: PathBuf::from(RUN_DIR),
        limits: raise_own(),
        kernel,
        memory_at_boot,
        containers,
        power: Box::new(Guest),
    };
    let agent = Agent::new(options).unwrap_or_else(|error| give_up("starting the agent", &error));
    if let Some(connection) = pushed {
        agent.adopt(connection, true);
    }
    match agent.serve(&listener) {
        Ok(()) => halt(),
        Err(error) => give_up("accepting connections", &error),
    }
}

/// Tells the host that the guest is up. A host that does not listen may still connect by itself.
fn push(kernel: &str) -> Option<Connection> {
    let connection = match dial(HOST_CID, HOST_PORT, DEVICE_PATIENCE) {
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

/// Keeps descriptors 0 to 2 from being given to sockets, if the kernel found no console to open for them.
fn occupy_standard_descriptors() {
    while !is_open(2) {
        match open("/", OFlag::O_PATH, Mode::empty()) {
            // Kept open for good.
            Ok(fd) => std::mem::forget(fd),
            Err(_) => return,
        }
    }
}

/// Mounts the agent's file systems and points the standard descriptors at `/dev/null`. A kernel without one of them
/// is usable to some extent.
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
