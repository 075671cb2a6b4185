//! Console output to a pipe, socket or terminal whose reader may stop reading. vCPU threads write, and never wait.
//!
//! ```text
//!   write ──▶ the descriptor takes it at once (RWF_NOWAIT) ──▶ done
//!        └──▶ else a queue of 64 KiB ──▶ a thread that writes and may wait, from then on for all output
//! ```
//!
//! Output that does not fit into the queue is lost and counted. The descriptor is shared with other processes, so it is
//! not made non-blocking.
#![expect(unsafe_code, reason = "pwritev2 has no safe wrapper")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::confine::seccomp::Kind;
use crate::confine::ThreadRules;
use crate::sync::{lock, wait, wait_timeout};

/// Most bytes that wait for the thread. As many more may be in its hands.
const QUEUE_MAX: usize = 64 << 10;
/// Stack of the thread, which does little, in bytes. Only the used part takes memory.
const STACK_SIZE: usize = 64 << 10;

/// A descriptor that may block.
#[derive(Debug)]
pub struct Stream {
    out: File,
    /// `Some` since the first output that the descriptor did not take at once.
    queue: Option<Arc<Queue>>,
}

impl Stream {
    pub fn new(out: File) -> Self {
        Self { out, queue: None }
    }

    /// Writes `bytes`, now or later, without waiting. `rules`: for the thread that may become necessary.
    ///
    /// # Errors
    /// The descriptor refuses all further output.
    pub fn write(&mut self, bytes: &[u8], rules: &ThreadRules) -> io::Result<()> {
        if let Some(queue) = &self.queue {
            return queue.push(bytes);
        }
        let written = match write_now(&self.out, bytes) {
            Ok(count) => count,
            // It is full, or of a kind that cannot tell.
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS) => 0,
                _ => return Err(error),
            },
        };
        match bytes.get(written..) {
            None | Some([]) => Ok(()),
            Some(rest) => {
                let (out, rules) = (self.out.try_clone()?, rules.clone());
                let queue = rules.clone().call(move || Queue::start(out, &rules))?;
                self.queue.insert(queue).push(rest)
            }
        }
    }

    /// The output that is not written yet, to wait for without holding a lock.
    pub fn queue(&self) -> Option<Arc<Queue>> {
        self.queue.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            lock(&queue.state).closed = true;
            queue.changed.notify_all();
        }
    }
}

/// Output for the thread.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that were lost since the last output that was not.
    lost: u64,
    /// The thread is writing.
    busy: bool,
    /// There will be no more output.
    closed: bool,
    error: Option<io::Error>,
    /// Waiting for the reader was in vain once.
    given_up: bool,
}

impl Queue {
    fn start(out: File, rules: &ThreadRules) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let inside = queue.clone();
        let start = rules.start(Kind::Console);
        let work = move || {
            start();
            inside.write_out(out);
        };
        std::thread::Builder::new().name("console".into()).stack_size(STACK_SIZE).spawn(work)?;
        Ok(queue)
    }

    fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let note = match state.lost {
            0 => String::new(),
            lost => format!("\n[hutch: {lost} bytes of console output were lost, because nothing read them]\n"),
        };
        if state.waiting.len() + note.len() + bytes.len() > QUEUE_MAX {
            state.lost += bytes.len() as u64;
            return Ok(());
        }
        state.lost = 0;
        state.waiting.extend(note.bytes());
        state.waiting.extend(bytes);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// The thread: writes until there is no more output. It may wait in the descriptor for ever.
    fn write_out(&self, mut out: File) {
        loop {
            let mut state = lock(&self.state);
            state.busy = false;
            self.changed.notify_all();
            while state.waiting.is_empty() {
                if state.closed {
                    return;
                }
                state = wait(&self.changed, state);
            }
            let bytes = std::mem::take(&mut state.waiting);
            state.busy = true;
            drop(state);
            if let Err(error) = out.write_all(&bytes) {
                let mut state = lock(&self.state);
                (state.busy, state.error) = (false, Some(error));
                state.waiting.clear();
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Waits until everything is written, at most for `timeout`, and only once.
    pub fn drain(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        while !state.given_up && (state.busy || !state.waiting.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.given_up = true;
                log::warn!("the end of the console's output is lost, because nothing reads it");
                return;
            }
            state = wait_timeout(&self.changed, state, left);
        }
    }
}

/// Writes at the current position as many bytes as the descriptor takes without waiting.
fn write_now(out: &File, bytes: &[u8]) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel reads `bytes` through one vector. An offset of -1, in two halves, is the current position.
    let count = unsafe {
        libc::syscall(libc::SYS_pwritev2, out.as_raw_fd(), &raw const vector, 1, -1_i64, -1_i64, libc::RWF_NOWAIT)
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[path = "console_stream_tests.rs"]
mod tests;
