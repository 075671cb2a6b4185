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
use crate::confine::seccomp::Kind;
use crate::confine::ThreadRules;
use crate::counters::VcpuCounters;
use crate::hv::Vcpu;

/// Stack of a vCPU thread in bytes: device code runs there. Only the used part takes memory.
const STACK_SIZE: usize = 512 << 10;

/// Reports of a vCPU's thread. Called on that thread.
pub trait VcpuEvents: Send + Sync {
    /// The vCPU has left the guest after the pause command of this number.
    fn paused(&self, index: u32, pause: u64);
    /// The vCPU stopped running the guest. Reported once at most.
    fn ended(&self, index: u32, end: VcpuExitReason);
    /// The thread ends, and does not touch the guest any more.
    fn gone(&self, index: u32);
}

/// Starts the thread of vCPU `index`, parked, by `rules`.
pub fn spawn(
    index: u32,
    vcpu: Box<dyn Vcpu>,
    io: IoSpace,
    counters: Arc<VcpuCounters>,
    events: Arc<dyn VcpuEvents>,
    rules: &ThreadRules,
) -> io::Result<VcpuHandle> {
    handle::install_signal_handler()?;
    let (sender, commands) = mpsc::channel();
    let kick = Kick::new(vcpu.immediate_exit());
    let inside = VcpuThread { index, vcpu, io, counters, events, commands, kick: kick.clone() };
    let rules = rules.clone();
    let thread = rules.clone().call(move || {
        let start = rules.start(Kind::Vcpu);
        std::thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK_SIZE).spawn(move || {
            start();
            inside.run();
        })
    })?;
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

/// Reports `gone`, and a panic before it, however the thread's function returns. Release builds abort on a panic: this
/// report is for debug builds and tests, which unwind and would otherwise wait for the thread.
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
        let (mut running, mut has_run) = (false, false);
        loop {
            // All commands so far, before the guest runs: one kick may stand for several of them.
            let command = match running {
                true => self.commands.try_recv(),
                false => self.commands.recv().map_err(|mpsc::RecvError| TryRecvError::Disconnected),
            };
            match command {
                Ok(VcpuCommand::Run) => {
                    if has_run {
                        self.vcpu.resumed();
                    }
                    (running, has_run) = (true, true);
                }
                Ok(VcpuCommand::Pause(pause)) => {
                    running = false;
                    self.events.paused(self.index, pause);
                }
                Ok(VcpuCommand::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    if let Some(end) = self.run_guest() {
                        running = false;
                        self.events.ended(self.index, end);
                    }
                }
            }
        }
    }

    /// Runs the guest until a kick or its end.
    fn run_guest(&mut self) -> Option<VcpuExitReason> {
        loop {
            match run_loop::step(self.vcpu.as_mut(), &self.io, &self.counters) {
                StepOutcome::Continue => (),
                StepOutcome::End(end) => return Some(end),
                StepOutcome::Interrupted => {
                    // Cleared before receiving: a command that comes later sets the flag again.
                    self.kick.clear();
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
