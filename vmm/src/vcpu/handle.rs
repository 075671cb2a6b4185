//! Controls a vCPU from other threads: commands to its thread, and the kick that makes it leave the guest.
#![expect(unsafe_code, reason = "tgkill and gettid, which are plain system calls")]

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

use crate::hv::ImmediateExit;

/// A command to a vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuCommand {
    /// Run the guest.
    Run,
    /// Leave the guest, report it with this number, and wait.
    Pause(u64),
    /// Leave the guest and end the thread.
    Stop,
}

/// Makes a vCPU leave the guest. Works from any thread, before, while and after it runs.
#[derive(Clone)]
pub struct Kick {
    flag: Arc<dyn ImmediateExit>,
    /// Thread id; 0 while no thread runs the vCPU.
    thread: Arc<AtomicI32>,
}

impl Kick {
    /// Creates the kick of a vCPU that no thread runs yet.
    pub fn new(flag: Arc<dyn ImmediateExit>) -> Self {
        Self { flag, thread: Arc::default() }
    }

    /// Makes the calling thread the target of kicks until the guard is dropped.
    pub fn enter(&self) -> KickGuard {
        // SAFETY: a plain query.
        self.thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        KickGuard(self.thread.clone())
    }

    /// Makes the vCPU leave the guest, or return at once from its next entry.
    pub fn kick(&self) {
        self.flag.set(true);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: tgkill touches no memory. If that thread has just ended, the call fails; if another of our threads
            // has its id now, the handler of the signal does nothing there.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    /// Clears the flag: the vCPU's thread has seen the kick.
    pub fn clear(&self) {
        self.flag.set(false);
    }
}

/// Ends the time in which kicks go to a thread.
pub struct KickGuard(Arc<AtomicI32>);

impl Drop for KickGuard {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// The signal that interrupts KVM_RUN. No other process needs to know its number.
pub fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the handler, once per process: a signal without a handler would end the process.
pub fn install_signal_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(signal(), nothing).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// Commands one vCPU thread, and ends it when dropped.
pub struct VcpuHandle {
    commands: Sender<VcpuCommand>,
    kick: Kick,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    pub(super) fn new(commands: Sender<VcpuCommand>, kick: Kick, thread: JoinHandle<()>) -> Self {
        Self { commands, kick, thread: Some(thread) }
    }

    /// Sends a command, and kicks the vCPU for pause and stop. Has no effect on a thread that has ended.
    pub fn send(&self, command: VcpuCommand) {
        // The order matters: the thread clears the flag before it receives commands.
        let _ = self.commands.send(command);
        if command != VcpuCommand::Run {
            self.kick.kick();
        }
    }

    /// Waits for the end of a thread after a stop command.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself, as `VcpuExitReason::Bug`.
            let _ = thread.join();
        }
    }
}

impl Drop for VcpuHandle {
    /// Does not wait for the thread; `VcpuEvents::gone` reports its end.
    fn drop(&mut self) {
        self.send(VcpuCommand::Stop);
    }
}
