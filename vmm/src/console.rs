//! The guest's console output: keeps the last lines, appends everything to a file if configured, and detects panics.
//!
//! The serial device writes from vCPU threads; reports read from anywhere.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::config::ConsoleOutput;
use crate::confine::ThreadRules;
use crate::console_stream::Stream;
use crate::sync::lock;

/// Number of lines kept in memory.
const MAX_LINES: usize = 256;
/// Longer lines are broken, in bytes.
const MAX_LINE: usize = 1024;
/// A guest cannot fill the host's disk: the file gets no more bytes than this.
const MAX_FILE: u64 = 64 << 20;
/// The beginning of Linux' panic message.
const PANIC: &str = "Kernel panic - not syncing";

/// The console of one machine. Clones share it.
#[derive(Clone, Debug)]
pub struct GuestConsole(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<String>,
    /// The line that has not ended yet.
    current: Vec<u8>,
    file: Option<Output>,
    file_len: u64,
    /// The first line of a kernel's panic, which a long trace soon pushes out of sight.
    panic: Option<String>,
    rules: ThreadRules,
}

/// The destination of everything that the guest prints.
#[derive(Debug)]
enum Output {
    File(File),
    Stream(Stream),
    /// Standard output before the first line: most guests print nothing.
    Stdout(File),
}

impl Output {
    /// `rules`: for the thread that an output may need.
    fn write(&mut self, bytes: &[u8], rules: &ThreadRules) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stream(stream) => stream.write(bytes, rules),
            Self::Stdout(out) => {
                let out = out.try_clone()?;
                let (out, kind) = rules.call(move || out.metadata().map(|kind| (out, kind)))?;
                // /dev/null and its like (major 1) take everything.
                let memory = kind.file_type().is_char_device() && libc::major(kind.rdev()) == 1;
                *self = match kind.is_file() || memory {
                    true => Self::File(out),
                    false => Self::Stream(Stream::new(out)),
                };
                self.write(bytes, rules)
            }
        }
    }
}

impl GuestConsole {
    /// Opens the file if `output` names one. `None` if there is no console at all.
    pub fn new(output: &ConsoleOutput) -> io::Result<Option<Self>> {
        let file = match output {
            ConsoleOutput::None => return Ok(None),
            ConsoleOutput::Ring => None,
            ConsoleOutput::File(path) => Some(Output::File(open(path)?)),
            // A descriptor of its own, but not opened anew: a terminal or a port may be open only once.
            ConsoleOutput::Stdout => Some(Output::Stdout(io::stdout().as_fd().try_clone_to_owned()?.into())),
        };
        Ok(Some(Self(Arc::new(Mutex::new(Inner { file, ..Inner::default() })))))
    }

    /// Sets the rules for the thread that a slow reader of the output makes necessary.
    pub(crate) fn set_rules(&self, rules: ThreadRules) {
        self.lock().rules = rules;
    }

    /// The last `count` lines, without control characters, the oldest first. If the kernel panicked and the line with
    /// the reason is older, that line comes before them.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let inner = self.lock();
        let unfinished = (!inner.current.is_empty()).then(|| printable(&inner.current));
        let all = inner.lines.len() + usize::from(unfinished.is_some());
        let mut tail: Vec<String> =
            inner.lines.iter().cloned().chain(unfinished).skip(all.saturating_sub(count)).collect();
        if let Some(panic) = inner.panic.as_ref().filter(|panic| !tail.contains(panic)) {
            tail.insert(0, panic.clone());
        }
        tail
    }

    /// Whether a panic of a Linux kernel was printed.
    pub fn panicked(&self) -> bool {
        self.lock().panic.is_some()
    }

    /// Writes an unfinished line to the file when the guest has ended.
    pub fn finish(&self) {
        let mut inner = self.lock();
        let current = std::mem::take(&mut inner.current);
        if !current.is_empty() {
            inner.write_file(&current);
            inner.end_line(&current);
        }
    }

    /// Waits until the reader of the output has taken all of it, at most for `timeout`.
    pub fn drain(&self, timeout: Duration) {
        let queue = match &self.lock().file {
            Some(Output::Stream(stream)) => stream.queue(),
            _ => None,
        };
        if let Some(queue) = queue {
            queue.drain(timeout);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

/// Used by the serial device. The guest never sees an error: hutch stops writing to a file that fails.
impl Write for GuestConsole {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        for byte in data {
            inner.current.push(*byte);
            if *byte == b'\n' || inner.current.len() >= MAX_LINE {
                let line = std::mem::take(&mut inner.current);
                inner.write_file(&line);
                inner.end_line(&line);
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn write_file(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if self.file_len >= MAX_FILE {
            log::warn!("the console file has reached {} MiB; nothing more is written to it", MAX_FILE >> 20);
            self.file = None;
            return;
        }
        self.file_len += bytes.len() as u64;
        match file.write(bytes, &self.rules) {
            // A full pipe loses the output: the guest must not wait for its reader.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => {
                log::error!("cannot write the console file any more: {error}");
                self.file = None;
            }
            Ok(()) => (),
        }
    }

    fn end_line(&mut self, bytes: &[u8]) {
        let line = printable(bytes);
        if self.panic.is_none() && is_panic(&line) {
            self.panic = Some(line.clone());
        }
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Non-blocking for pipes and terminals: a vCPU must never wait for a reader.
    File::options().append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path)
}

/// `[    1.234567] Kernel panic - not syncing: ...`, with or without the time; not a line that merely quotes it.
fn is_panic(line: &str) -> bool {
    let text = match line.strip_prefix('[') {
        Some(rest) => rest.split_once("] ").map_or("", |(_, text)| text),
        None => line,
    };
    text.starts_with(PANIC)
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\r', '\n'])
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> GuestConsole {
        GuestConsole::new(&ConsoleOutput::Ring).expect("nothing to open").expect("a console")
    }

    #[test]
    fn the_last_lines_are_kept_and_an_unfinished_one_counts() {
        let mut console = ring();
        for line in 0..MAX_LINES + 10 {
            writeln!(console, "line {line}\r").expect("never fails");
        }
        write!(console, "login: ").expect("never fails");
        assert_eq!(console.tail(2), ["line 265", "login: "]);
        assert_eq!(console.tail(10_000).len(), MAX_LINES + 1);
        assert_eq!(console.tail(0), Vec::<String>::new());
    }

    #[test]
    fn control_characters_do_not_reach_the_hosts_terminal() {
        let mut console = ring();
        console.write_all(b"\x1b[2Jboo\x07\tx\xff\n").expect("never fails");
        assert_eq!(console.tail(1), ["\u{fffd}[2Jboo\u{fffd}\tx\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let mut console = ring();
        console.write_all(&[b'x'; 3 * MAX_LINE + 1]).expect("never fails");
        assert_eq!(console.tail(10).len(), 4);
    }

    #[test]
    fn panics_are_seen_with_and_without_time_and_not_in_quotations() {
        for (line, panic) in [
            ("[    0.5] Kernel panic - not syncing: VFS", true),
            ("Kernel panic - not syncing: x", true),
            ("[    0.5] say: Kernel panic - not syncing", false),
            ("kernel panic", false),
            ("[", false),
        ] {
            let mut console = ring();
            writeln!(console, "{line}\r").expect("never fails");
            assert_eq!(console.panicked(), panic, "{line}");
        }
    }

    #[test]
    fn a_file_gets_everything_including_the_unfinished_line_at_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("console");
        std::fs::write(&path, "earlier\n").expect("a file");
        let mut console = GuestConsole::new(&ConsoleOutput::File(path.clone())).expect("writable").expect("a console");
        console.write_all(b"one\ntwo").expect("never fails");
        console.finish();
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "earlier\none\ntwo");
        assert_eq!(console.tail(2), ["one", "two"]);
    }

    #[test]
    fn a_file_is_bounded_however_much_the_guest_prints() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("console");
        let console = GuestConsole::new(&ConsoleOutput::File(path.clone())).expect("writable").expect("a console");
        console.lock().file_len = MAX_FILE;
        let mut writer = console.clone();
        writer.write_all(b"too much\n").expect("never fails");
        assert_eq!(std::fs::read(&path).expect("readable"), b"");
        assert_eq!(console.tail(1), ["too much"]);
    }

    #[test]
    fn an_unwritable_file_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(GuestConsole::new(&ConsoleOutput::File(dir.path().into())).is_err(), "a directory");
        assert!(GuestConsole::new(&ConsoleOutput::File(dir.path().join("no/such"))).is_err());
    }

    #[test]
    fn the_reason_of_a_panic_stays_in_sight_behind_a_long_trace() {
        let mut console = GuestConsole::new(&ConsoleOutput::Ring).expect("no file").expect("a console");
        let reason = "[    1.000000] Kernel panic - not syncing: sysrq triggered crash";
        writeln!(console, "before\n{reason}").expect("memory");
        assert_eq!(console.tail(5), ["before", reason], "not twice");
        for n in 0..MAX_LINES {
            writeln!(console, "trace {n}").expect("memory");
        }
        let last = format!("trace {}", MAX_LINES - 1);
        assert_eq!(console.tail(1), [reason, &last]);
    }
}
