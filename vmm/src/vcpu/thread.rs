//! The thread of a vCPU.
//!
//! ```text
//!                Run                         Pause (then `paused` is reported)
//!   parked ────────────────▶ running ──────────────────────────────────────▶ parked
//!     │ ▲                      │  │
//!     │ └── the guest ends ────┘  │
//!     │     (`ended` is reported) │
//!     └───────── Stop ────────────┴──▶ gone (reported last, even after a panic)
//! ```

use std::io;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::Arc;

use vmm_sys_util::signal::unblock_signal;

use super::handle::{self, Kick, VcpuCommand, VcpuHandle};
use super::run_loop::{self, IoSpace, StepOutcome, VcpuExitReason};
use crate::counters::VcpuCounters;
use crate::hv::Vcpu;

/// Stack of a vCPU thread in bytes: device code runs there. Only the used part takes memory.
const STACK_SIZE: usize = 512 << 10;

/// Reports of a vCPU's thread. Called on that thread.
pub trait VcpuEvents: Send + Sync {
    /// The vCPU has left the guest after a pause command.
    fn paused(&self, index: u32);
    /// The vCPU stopped running the guest. Reported once at most.
    fn ended(&self, index: u32, end: VcpuExitReason);
    /// The thread ends, and does not touch the guest any more.
    fn gone(&self, index: u32);
}

/// Starts the thread of vCPU `index`, parked.
pub fn spawn(
    index: u32,
    vcpu: Box<dyn Vcpu>,
    io: IoSpace,
    counters: Arc<VcpuCounters>,
    events: Arc<dyn VcpuEvents>,
) -> io::Result<VcpuHandle> {
    handle::install_signal_handler()?;
    let (sender, commands) = mpsc::channel();
    let kick = Kick::new(vcpu.immediate_exit());
    let inside = VcpuThread { index, vcpu, io, counters, events, commands, kick: kick.clone() };
    let thread =
        std::thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK_SIZE).spawn(move || inside.run())?;
    Ok(VcpuHandle::new(sender, kick, thread))
}

struct VcpuThread {
    index: u32,
    vcpu: Box<dyn Vcpu>,
    io: IoSpace,
    counters: Arc<VcpuCounters>,
    events: Arc<dyn VcpuEvents>,
    commands: Receiver<VcpuCommand>,
    kick: Kick,
}

/// Why the thread left the guest.
enum Left {
    Paused,
    Ended(VcpuExitReason),
    Stopped,
}

/// Reports `gone`, and a panic before it, however the thread's function returns.
struct ExitGuard {
    index: u32,
    events: Arc<dyn VcpuEvents>,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.events.ended(self.index, VcpuExitReason::Bug);
        }
        self.events.gone(self.index);
    }
}

impl VcpuThread {
    fn run(mut self) {
        let _exit_guard = ExitGuard { index: self.index, events: self.events.clone() };
        // The thread that created this one may have blocked every signal, and the mask is inherited.
        if let Err(error) = unblock_signal(handle::signal()) {
            log::error!("vcpu{}: cannot unblock the signal that interrupts it: {error:?}", self.index);
        }
        let _kick_guard = self.kick.enter();
        let mut has_run = false;
        loop {
            match self.commands.recv() {
                Ok(VcpuCommand::Run) => (),
                Ok(VcpuCommand::Pause) => {
                    self.events.paused(self.index);
                    continue;
                }
                Ok(VcpuCommand::Stop) | Err(mpsc::RecvError) => return,
            }
            if has_run {
                self.vcpu.resumed();
            }
            has_run = true;
            match self.run_guest() {
                Left::Paused => self.events.paused(self.index),
                Left::Ended(end) => self.events.ended(self.index, end),
                Left::Stopped => return,
            }
        }
    }

    fn run_guest(&mut self) -> Left {
        loop {
            match run_loop::step(self.vcpu.as_mut(), &self.io, &self.counters) {
                StepOutcome::Continue => (),
                StepOutcome::End(end) => return Left::Ended(end),
                StepOutcome::Interrupted => {
                    // Cleared before receiving: a command that comes later sets the flag again.
                    self.kick.clear();
                    match self.commands.try_recv() {
                        Ok(VcpuCommand::Pause) => return Left::Paused,
                        Ok(VcpuCommand::Stop) | Err(TryRecvError::Disconnected) => return Left::Stopped,
                        Ok(VcpuCommand::Run) | Err(TryRecvError::Empty) => (),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
