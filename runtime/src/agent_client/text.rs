//! Text from the guest, made safe for the host's terminal, logs and memory.

use std::time::{Duration, Instant};

use hutch_agent_proto::{is_token, Event, Response};

use crate::id::MAX_ID;

/// Longest text of the guest that is shown or logged, in characters.
pub(super) const TEXT_MAX: usize = 2000;
/// Longest command line of a process of the guest, in characters.
const COMMAND_MAX: usize = 64 << 10;
/// Longest name of an interface or a terminal in the guest, in characters.
const NAME_MAX: usize = 64;
/// Log lines that the guest may write to the host's log in a second.
const LOG_LINES_PER_SECOND: u32 = 20;

/// At most `max` characters of `text`. Control characters are escaped, so that they cannot control a terminal or forge
/// log lines. A cut is shown as `…`.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for (count, c) in text.trim_end().chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        if c == '\t' || !c.is_control() {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Whether an event names something that the host could have named.
pub(super) fn is_sound(event: &Event) -> bool {
    match event {
        Event::Exited { token, .. } => is_token(token),
        Event::OutOfMemory { container } => (1..=MAX_ID).contains(&container.len()),
        _ => true,
    }
}

/// The answer with its texts [printable].
pub(super) fn cleaned(mut response: Response) -> Response {
    match &mut response {
        Response::Processes(processes) => {
            for process in processes {
                process.command = printable(&process.command, COMMAND_MAX);
                process.tty = printable(&process.tty, NAME_MAX);
                process.token = process.token.take().filter(|token| is_token(token));
            }
        }
        Response::Stats(stats) => {
            for interface in &mut stats.network {
                interface.name = printable(&interface.name, NAME_MAX);
            }
        }
        _ => {}
    }
    response
}

/// Lets the guest write a bounded number of lines to the host's log.
pub(super) struct LogQuota {
    second: Instant,
    left: u32,
}

impl LogQuota {
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), left: LOG_LINES_PER_SECOND }
    }

    /// Logs one line, or drops it.
    pub(super) fn log(&mut self, level: &str, message: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        // An error of the guest is at most a warning on the host.
        let level = match level {
            "error" | "warn" => log::Level::Warn,
            "info" => log::Level::Info,
            _ => log::Level::Debug,
        };
        log::log!(target: "guest", level, "{}", printable(message, TEXT_MAX));
        if left == 0 {
            log::warn!(target: "guest", "too many lines; the rest of this second is dropped");
        }
    }
}
