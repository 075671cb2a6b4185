//! The inside of a vCPU: its thread.
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

use super::handle::{self, Command, Kick, VcpuHandle};
use super::run_loop::{self, GuestEnd, IoSpace, Step};
use crate::counters::VcpuCounters;
use crate::hv::Vcpu;

/// Stack of a vCPU thread: device code runs there. Only what is used takes memory.
const STACK_SIZE: usize = 512 << 10;

/// What a vCPU's thread reports. Called on that thread.
pub trait VcpuEvents: Send + Sync {
    /// The vCPU has left the guest, as asked.
    fn paused(&self, index: u32);
    /// The vCPU does not go on. Reported once at most.
    fn ended(&self, index: u32, end: GuestEnd);
    /// The thread ends. Nothing of it touches the guest any more.
    fn gone(&self, index: u32);
}

/// Starts the thread of vCPU `index`, parked.
///
/// # Errors
/// No thread is to be had.
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
    commands: Receiver<Command>,
    kick: Kick,
}

/// Why the guest was left.
enum Left {
    Paused,
    Ended(GuestEnd),
    Stopped,
}

/// Reports `gone`, and a panic before it, when the thread's function is left in any way.
struct Farewell {
    index: u32,
    events: Arc<dyn VcpuEvents>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.events.ended(self.index, GuestEnd::Bug);
        }
        self.events.gone(self.index);
    }
}

impl VcpuThread {
    fn run(mut self) {
        let _farewell = Farewell { index: self.index, events: self.events.clone() };
        // The mask is inherited from whoever built the machine, who may have blocked everything.
        if let Err(error) = unblock_signal(handle::signal()) {
            log::error!("vcpu{}: cannot unblock the signal that calls it back: {error:?}", self.index);
        }
        let _entered = self.kick.enter();
        let mut has_run = false;
        loop {
            match self.commands.recv() {
                Ok(Command::Run) => (),
                Ok(Command::Pause) => {
                    self.events.paused(self.index);
                    continue;
                }
                Ok(Command::Stop) | Err(mpsc::RecvError) => return,
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
                Step::Continue => (),
                Step::End(end) => return Left::Ended(end),
                Step::Interrupted => {
                    // Cleared first: a command that comes after the look will set it again.
                    self.kick.clear();
                    match self.commands.try_recv() {
                        Ok(Command::Pause) => return Left::Paused,
                        Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Left::Stopped,
                        Ok(Command::Run) | Err(TryRecvError::Empty) => (),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
