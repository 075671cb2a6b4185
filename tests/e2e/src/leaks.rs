//! Finds what a run leaves behind on the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hutch_runtime::store::ROOT_MARKER;
use hutch_testbed::OWN_FILES;

use crate::in_testbed;

/// The host's processes, interfaces, mounts, cgroups, sockets, machines and files, as far as a run could add to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

/// Parts of the names of hutch's temporary files: its own, and those of the `tempfile` library.
const TEMPORARY: [&str; 2] = ["/hutch-", "/.tmp"];

/// Directories in which any new file is a leak, and whether their subdirectories count.
const DIRECTORIES: [(&str, bool); 6] = [
    ("/run", true),
    ("/var/lib/hutch", true),
    ("/dev/shm", true),
    ("/sys/fs/cgroup", true),
    ("/tmp", false),
    ("/sys/kernel/debug/kvm", false),
];

/// The kernel may take this long to release what a killed process owned: it tears guest memory down after the exit.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);

impl Snapshot {
    /// Records the host's present state.
    pub fn take() -> Snapshot {
        let mut all = BTreeSet::new();
        processes(&mut all);
        let mut named = |what: &str, names: Vec<String>| all.extend(names.into_iter().map(|n| format!("{what} {n}")));
        named("interface", names_in(Path::new("/sys/class/net")));
        named("mount", lines("/proc/self/mountinfo", |fields| fields.get(4).map(|s| (*s).to_owned())));
        named("socket", lines("/proc/net/unix", |fields| fields.get(7).map(|s| (*s).to_owned())));
        named("descriptor of this test", vec![format!("count {}", names_in(Path::new("/proc/self/fd")).len())]);
        for (dir, below) in DIRECTORIES {
            files(&seen(dir), below, &mut all);
        }
        // The test's programs leave other files there.
        let temporary = format!("file {}/", seen("/tmp").display());
        let foreign = |entry: &str| entry.starts_with(&temporary) && !TEMPORARY.iter().any(|ours| entry.contains(ours));
        all.retain(|entry| !foreign(entry));
        // On a host with other users, only entries with hutch's name count; in the testbed, all do.
        if !in_testbed() {
            all.retain(|entry| entry.contains("hutch") || entry.starts_with("descriptor"));
        }
        Snapshot(all)
    }

    /// Entries that are new since the snapshot. Waits a while for them to go away.
    pub fn leaks(&self) -> Vec<String> {
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        loop {
            let new = self.news();
            if new.is_empty() || Instant::now() > deadline {
                return new;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Entries that are new since the snapshot, now.
    pub fn news(&self) -> Vec<String> {
        Snapshot::take().0.difference(&self.0).cloned().collect()
    }

    /// Checks that nothing is left.
    #[track_caller]
    pub fn expect_no_leaks(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "left behind:\n  {}", leaks.join("\n  "));
    }
}

/// Where to find the files of a directory that this machine has made. The testbed shows the host's /tmp, in which programs of
/// the host, the tests beside among them, make and leave files at any time.
fn seen(dir: &str) -> PathBuf {
    let prefix = if dir == "/tmp" && in_testbed() { OWN_FILES } else { "" };
    PathBuf::from(format!("{prefix}{dir}"))
}

/// All user processes except this one. Kernel threads have no command line, except those of a process (vhost's).
fn processes(all: &mut BTreeSet<String>) {
    for name in names_in(Path::new("/proc")) {
        let command = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        if name.bytes().all(|b| b.is_ascii_digit()) && !command.is_empty() && name != std::process::id().to_string() {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            all.insert(format!("process {name} {command}"));
        }
    }
}

fn lines(path: &str, field: impl Fn(&[&str]) -> Option<String>) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| field(&line.split_whitespace().collect::<Vec<_>>())).collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    entries(dir).iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
}

/// The entries of a directory; none if it cannot be read or is gone.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn files(dir: &Path, below: bool, all: &mut BTreeSet<String>) {
    for path in entries(dir) {
        if below && path.is_dir() && !path.is_symlink() {
            files(&path, below, all);
        }
        // The kernel changes the files of a cgroup directory; only a directory can leak. The marker of a root stays there.
        let kept = path.starts_with("/sys/fs/cgroup") && !path.is_dir() || path.ends_with(ROOT_MARKER);
        if !kept {
            all.insert(format!("file {}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_new_file_and_a_new_process_are_noticed_and_their_absence_too() {
        let before = Snapshot::take();
        let file = tempfile::Builder::new().prefix("hutch-leak-").tempfile_in("/tmp").unwrap();
        let mut child = Command::new("sleep").arg0("hutch-leak-sleep").arg("1000").spawn().unwrap();
        // A new process gets its command line a moment after its start.
        let process = format!("process {}", child.id());
        let mut found = BTreeSet::new();
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        while !found.iter().any(|entry: &String| entry.starts_with(&process)) && Instant::now() < deadline {
            found = Snapshot::take().0.difference(&before.0).cloned().collect();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|entry| *entry == format!("file {}", file.path().display())), "{found:?}");
        assert!(found.iter().any(|entry| entry.starts_with(&process)), "{found:?}");
        drop(file);
        let left: Vec<String> = Snapshot::take().0.into_iter().filter(|entry| entry.contains("hutch-leak")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
