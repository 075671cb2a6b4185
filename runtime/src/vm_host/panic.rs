//! A panic in a VMM process: what the process leaves, and what the others make of it.
//!
//! A panic is a bug of hutch. The process ends at once, with SIGABRT, whichever thread it was and however the program was
//! built: other threads would go on with a machine of which a part is missing. A thread that serves a guest may open no
//! file, so it only writes a line to the process's stderr, which is the pod's `vmm.log`. The process that finds the machine
//! dead, a shim or a call, reads the reason there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{set_hook, take_hook, PanicHookInfo};
use std::path::Path;

use crate::agent_client::printable;

/// Bytes at the end of a log that are searched.
const TAIL: u64 = 64 << 10;
/// Longest report, in characters.
const REPORT_MAX: usize = 500;

/// From now on a panic of any thread ends this process with SIGABRT, and leaves a line about the machine `uuid`.
pub(super) fn report_panics(uuid: &str) {
    let (uuid, print) = (uuid.to_owned(), take_hook());
    set_hook(Box::new(move |info| {
        let mut line = line(&uuid, info);
        line.push('\n');
        // In one piece; nothing can be done about a failure.
        let _ = io::stderr().write_all(line.as_bytes());
        print(info);
        std::process::abort();
    }));
}

fn line(uuid: &str, info: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let name = thread.name().unwrap_or("without name");
    printable(&format!("machine {uuid}: thread {name} panicked at {place}: {message}"), REPORT_MAX)
}

/// The panic that ended the machine whose control socket is `socket`, in its log.
pub(crate) fn panic_of(log: &Path, socket: &Path) -> Option<String> {
    // The socket is named for the first digits of the machine's UUID. A log has the lines of earlier machines too.
    let digits = socket.file_stem()?.to_str()?.strip_prefix("vm-")?;
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let start = format!("machine {digits}");
    let line = tail.lines().find(|line| line.starts_with(&start))?;
    let (_, report) = line.split_once(": ")?;
    Some(printable(report, REPORT_MAX))
}

/// The reason of a machine's unexpected end.
pub(crate) fn reason_of_end(log: &Path, socket: &Path) -> String {
    let ended = "the virtual machine's process has ended unexpectedly";
    match panic_of(log, socket) {
        Some(report) => format!("{ended}, with SIGABRT: {report}"),
        None => ended.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_by_the_machine_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vmm.log");
        let text = "machine 11112222-a: thread old panicked at a:1: x\n\
                    noise machine 33334444-b\n\
                    machine 33334444-b: thread vcpu0 panicked at b:2: index\x1b[2J\n";
        std::fs::write(&log, format!("{}{text}", "n\n".repeat(100_000))).unwrap();
        let of = |name: &str| panic_of(&log, &dir.path().join(name));
        assert_eq!(of("vm-33334444.sock").unwrap(), "thread vcpu0 panicked at b:2: index\\u{1b}[2J");
        assert_eq!(of("vm-11112222.sock").unwrap(), "thread old panicked at a:1: x");
        assert_eq!(of("vm-55556666.sock"), None);
        assert_eq!(of("other"), None);
        assert!(reason_of_end(&log, Path::new("vm-33334444.sock")).contains("SIGABRT: thread vcpu0"));
        assert!(!reason_of_end(&dir.path().join("none"), Path::new("vm-33334444.sock")).contains("SIGABRT"));
    }
}
