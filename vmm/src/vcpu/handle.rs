//! The outside of a vCPU: commands to its thread, and the way to call it back from the guest.
#![allow(unsafe_code)] // signals: sigaction through vmm-sys-util, tgkill

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

use crate::hv::ImmediateExit;

/// What a vCPU's thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the guest.
    Run,
    /// Leave the guest, say so, and wait.
    Pause,
    /// Leave the guest and end the thread.
    Stop,
}

/// Calls a vCPU back from the guest. Works from any thread, before, while and after it runs.
#[derive(Clone)]
pub struct Kick {
    flag: Arc<dyn ImmediateExit>,
    /// Thread id; 0 while there is none.
    thread: Arc<AtomicI32>,
}

impl Kick {
    /// For a vCPU that no thread runs yet.
    pub fn new(flag: Arc<dyn ImmediateExit>) -> Self {
        Self { flag, thread: Arc::default() }
    }

    /// The calling thread is the one that runs the vCPU, until the guard goes.
    pub fn enter(&self) -> Entered {
        // SAFETY: a plain query.
        self.thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        Entered(self.thread.clone())
    }

    /// Makes the vCPU leave the guest, or not enter it.
    pub fn kick(&self) {
        self.flag.set(true);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: tgkill touches no memory. If that thread has just ended, the call fails; if its id has been
            // given to another of our threads, that one gets a signal whose handler does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    /// The vCPU's thread has seen the call.
    pub fn clear(&self) {
        self.flag.set(false);
    }
}

/// Marks the time during which a thread runs a vCPU.
pub struct Entered(Arc<AtomicI32>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// The signal that interrupts KVM_RUN. Its number is of no importance to anybody else.
pub fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the handler, once per process: a signal without a handler would end it.
///
/// # Errors
/// That of `sigaction`.
pub fn install_signal_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(signal(), nothing).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// The machine's grip on one vCPU.
pub struct VcpuHandle {
    commands: Sender<Command>,
    kick: Kick,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    pub(super) fn new(commands: Sender<Command>, kick: Kick, thread: JoinHandle<()>) -> Self {
        Self { commands, kick, thread: Some(thread) }
    }

    /// Gives a command; for pause and stop the vCPU is called back. A thread that has ended does not mind.
    pub fn send(&self, command: Command) {
        // The order matters: the thread clears the flag before it looks for commands.
        let _ = self.commands.send(command);
        if command != Command::Run {
            self.kick.kick();
        }
    }

    /// Waits for a thread that is known to end.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself, as `GuestEnd::Bug`.
            let _ = thread.join();
        }
    }
}

impl Drop for VcpuHandle {
    /// The thread ends by itself, soon; whoever must know waits for [`super::VcpuEvents::gone`] before.
    fn drop(&mut self) {
        self.send(Command::Stop);
    }
}
