//! A panic or a forbidden system call in a VMM process or shim: what the process leaves, and what the others make of it.
//!
//! A panic is a bug of hutch. The process ends at once, with SIGABRT, whichever thread it was and however the program was
//! built: other threads would go on with a machine of which a part is missing. A thread that serves a guest may open no
//! file, so it only writes a line to the process's stderr, which is the pod's `vmm.log`. The process that finds the machine
//! dead, a shim or a call, reads the reason there. The handler of a forbidden call does the same; a shim's writes to the
//! pod's `vmm.log` too, for its stderr is its caller's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::panic::{set_hook, take_hook, PanicHookInfo};
use std::path::Path;

use hutch_vmm::confine::seccomp::label_process;

use crate::agent_client::printable;

/// Bytes at the end of a log that are searched.
const TAIL: u64 = 64 << 10;
/// Longest report, in characters.
const REPORT_MAX: usize = 500;

/// The beginning of the lines about the machine `uuid`, or a part of it.
fn machine(uuid: &str) -> String {
    format!("machine {uuid}")
}

/// The beginning of the lines about the shim of the process `token`.
fn shim(token: &str) -> String {
    format!("shim {token}")
}

/// From now on a panic of any thread ends this process with SIGABRT. That and a forbidden system call leave a line about
/// the machine `uuid`.
pub(super) fn report_ends(uuid: &str) {
    label_process(&machine(uuid), None);
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
    printable(&format!("{}: thread {name} panicked at {place}: {message}", machine(uuid)), REPORT_MAX)
}

/// From now on a forbidden system call leaves a line about the shim of the process `token`, also in the pod's `log`.
pub(crate) fn report_violations(token: &str, log: &Path) {
    // The log may be gone with the pod; then no call reads it.
    label_process(&shim(token), OpenOptions::new().append(true).open(log).ok().map(OwnedFd::from));
}

/// The forbidden system call that ended the shim of the process `token`, in the pod's log.
pub(crate) fn violation_of(log: &Path, token: &str) -> Option<String> {
    report_of(log, &format!("{}: ", shim(token)))
}

/// The panic or forbidden call that ended the machine whose control socket is `socket`, in its log.
pub(crate) fn report_of_machine(log: &Path, socket: &Path) -> Option<String> {
    // The socket is named for the first digits of the machine's UUID. A log has the lines of earlier machines too.
    let digits = socket.file_stem()?.to_str()?.strip_prefix("vm-")?;
    report_of(log, &machine(digits))
}

/// The rest of the first line in the log that begins like this.
fn report_of(log: &Path, start: &str) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().find(|line| line.starts_with(start))?;
    let (_, report) = line.split_once(": ")?;
    Some(printable(report, REPORT_MAX))
}

/// The reason of a machine's unexpected end.
pub(crate) fn reason_of_end(log: &Path, socket: &Path) -> String {
    let ended = "the virtual machine's process has ended unexpectedly";
    match report_of_machine(log, socket) {
        Some(report) if report.contains(" panicked at ") => format!("{ended}, with SIGABRT: {report}"),
        Some(report) => format!("{ended}: {report}"),
        None => ended.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use hutch_vmm::confine::seccomp::VIOLATION;

    use super::*;

    #[test]
    fn a_report_is_found_by_the_machine_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vmm.log");
        let text = "machine 11112222-a: thread old panicked at a:1: x\n\
                    noise machine 33334444-b\n\
                    machine 33334444-b: thread vcpu0 panicked at b:2: index\x1b[2J\n";
        std::fs::write(&log, format!("{}{text}", "n\n".repeat(100_000))).unwrap();
        let of = |name: &str| report_of_machine(&log, &dir.path().join(name));
        assert_eq!(of("vm-33334444.sock").unwrap(), "thread vcpu0 panicked at b:2: index\\u{1b}[2J");
        assert_eq!(of("vm-11112222.sock").unwrap(), "thread old panicked at a:1: x");
        assert_eq!(of("vm-55556666.sock"), None);
        assert_eq!(of("other"), None);
        assert!(reason_of_end(&log, Path::new("vm-33334444.sock")).contains("SIGABRT: thread vcpu0"));
        let text = format!(
            "shim t1: {VIOLATION}: thread hutch made x\nmachine 77778888-a: {VIOLATION}: thread vcpu0 made y\x1b[2J\n"
        );
        std::fs::write(&log, text).unwrap();
        let reason = reason_of_end(&log, Path::new("vm-77778888.sock"));
        assert!(reason.ends_with(&format!("unexpectedly: {VIOLATION}: thread vcpu0 made y\\u{{1b}}[2J")), "{reason}");
        assert_eq!(violation_of(&log, "t1").unwrap(), format!("{VIOLATION}: thread hutch made x"));
        assert_eq!(violation_of(&log, "t"), None);
        assert!(!reason_of_end(&dir.path().join("none"), Path::new("vm-33334444.sock")).contains("SIGABRT"));
    }
}
