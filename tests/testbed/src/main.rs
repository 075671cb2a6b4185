//! `testbed-init`: pid 1 of the emulated host. Static, started by the kernel from the initramfs.
//!
//! In order: mount the basics, find the port, read the job, load modules and set KVM up, put a throw-away overlay on the
//! host's root and move into it, mount the rest, run the job's command and relay its output as frames, report its end,
//! power off.
//! A failure of its own goes to the port as [`Frame::Failed`], or to the console if there is no port.

mod command;
mod mounts;
mod setup;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hutch_testbed::{Frame, Job, JOB_FILE};
use nix::sys::reboot::{reboot, RebootMode};

/// The frame port's writing side. The relay threads share it; each writes a whole frame under the lock.
type Port = Arc<Mutex<File>>;

/// Result of a step. The program only prints errors and never matches on them.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() {
    if std::process::id() != 1 {
        eprintln!("testbed-init is pid 1 of hutch's test machine; start that with: cargo xtask testbed -- COMMAND");
        std::process::exit(2);
    }
    if let Err(error) = boot() {
        eprintln!("testbed-init: {error}");
    }
    // reboot() returns only if it failed. The kernel then panics because pid 1 ends, which also ends the machine.
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("testbed-init: cannot power off: {error}");
}

/// Runs the job and reports the result. Returns an error only if there is no port.
fn boot() -> Result<()> {
    mounts::basics()?;
    let reader = setup::open_port()?;
    let port: Port = Arc::new(Mutex::new(reader.try_clone()?));
    let last = match run_job(reader, &port) {
        Ok(code) => Frame::Exit(code),
        Err(error) => Frame::Failed(error.to_string()),
    };
    // Closing a file writes its data to the share, but not pages dirtied through a mapping.
    nix::unistd::sync();
    send(&port, &last)
}

fn run_job(reader: File, port: &Port) -> Result<u8> {
    let bytes = std::fs::read(JOB_FILE).map_err(|e| format!("cannot read {JOB_FILE} of the initramfs: {e}"))?;
    let job = Job::decode(&bytes)?;
    setup::load_modules(Path::new(hutch_testbed::MODULE_DIR))?;
    setup::accept_tsc()?;
    mounts::enter_host_root()?;
    mounts::rest(&job)?;
    setup::settings()?;
    setup::leave_first_processor()?;
    command::run(&job, reader, port)
}

/// Sends one frame to the host.
fn send(port: &Port, frame: &Frame) -> Result<()> {
    let mut port = port.lock().map_err(|_| "a relay thread panicked")?;
    frame.write_to(&mut *port).map_err(|e| format!("cannot write to the host's port: {e}").into())
}
