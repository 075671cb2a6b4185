//! The descendants of a process, read from `/proc`, for signals to all of them. Any thread.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;

use crate::sys::send_signal;

/// Most readings of `/proc` for one signal: a process that forks as fast as it is signalled must not keep the agent
/// busy.
const MAX_ROUNDS: usize = 16;

/// The ids in `/proc/PID/stat` from which a tree is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcStat {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
}

/// Parses `/proc/PID/stat`. The name in it may contain any byte, so the fields are counted from the last `)`.
pub fn parse_stat(stat: &str) -> Option<ProcStat> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, fields) = rest.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(ProcStat { pid: pid.parse().ok()?, parent, session })
}

/// All processes of `proc`.
fn all(proc: &Path) -> Vec<ProcStat> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.filter_map(|name| parse_stat(&fs::read_to_string(proc.join(name).join("stat")).ok()?)).collect()
}

/// A process, its descendants, and the members of its session. A member stays in the set when its parent ends.
pub struct ProcessTree {
    head: i32,
    members: BTreeSet<i32>,
}

impl ProcessTree {
    /// The tree of `head` as it is now. Build it before you signal any member: the kernel gives the children of an
    /// ended process to process 1.
    pub fn of(head: i32) -> Self {
        let mut tree = Self { head, members: BTreeSet::from([head]) };
        tree.grow(&all(Path::new("/proc")));
        tree
    }

    /// The rest of the tree of `head`, which has ended and been reaped. A process that now has its pid is another
    /// process, and then the tree is empty: the kernel does not reuse the pid while a session has it as its id.
    pub fn left_by(head: i32) -> Self {
        let processes = all(Path::new("/proc"));
        let mut tree = Self { head, members: BTreeSet::from([head]) };
        match processes.iter().any(|process| process.pid == head) {
            true => tree.members.clear(),
            false => tree.grow(&processes),
        }
        tree
    }

    /// Adds the processes of `processes` that belong to the tree.
    fn grow(&mut self, processes: &[ProcStat]) {
        loop {
            let before = self.members.len();
            for process in processes {
                if self.members.contains(&process.parent) || self.members.contains(&process.session) {
                    self.members.insert(process.pid);
                }
            }
            if self.members.len() == before {
                return;
            }
        }
    }

    /// Sends `signal` to every member but the head. Reads `/proc` again until no new member turns up.
    pub fn signal_offspring(mut self, signal: i32) {
        let mut signalled = BTreeSet::from([self.head, std::process::id() as i32]);
        for _ in 0..MAX_ROUNDS {
            let mut news = false;
            for &pid in &self.members {
                // Process 1 and kernel threads (session 0) belong to no tree.
                if pid > 1 && signalled.insert(pid) {
                    news |= send_signal(pid, signal) != Err(Errno::ESRCH);
                }
            }
            if !news {
                return;
            }
            self.grow(&all(Path::new("/proc")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_may_contain_anything() {
        let stat = ProcStat { pid: 12, parent: 3, session: 5 };
        assert_eq!(parse_stat("12 (a) b (c)) S 3 4 5 0 -1"), Some(stat));
        assert_eq!(parse_stat("12 () S 3 4 5"), Some(stat));
        for bad in ["", "12", "12 (x", "12 (x) S 3", "x (x) S 3 4 5"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn own_entry_is_understood() {
        let stat = parse_stat(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(stat.pid, std::process::id() as i32);
        assert!(all(Path::new("/proc")).contains(&stat));
    }

    fn tree(head: i32, processes: &[ProcStat]) -> Vec<i32> {
        let mut tree = ProcessTree { head, members: BTreeSet::from([head]) };
        tree.grow(processes);
        tree.members.into_iter().collect()
    }

    #[test]
    fn a_tree_is_descendants_and_session_members() {
        let processes = [(10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 10), (14, 13, 14), (20, 1, 20), (21, 20, 20)];
        let processes = processes.map(|(pid, parent, session)| ProcStat { pid, parent, session });
        assert_eq!(tree(10, &processes), [10, 11, 12, 13, 14]);
        assert_eq!(tree(99, &processes), [99]);
    }

    #[test]
    fn orphans_stay_in_the_tree_that_was_read_before() {
        let processes =
            |parent| [ProcStat { pid: 11, parent, session: 11 }, ProcStat { pid: 12, parent: 11, session: 12 }];
        let mut tree = ProcessTree { head: 10, members: BTreeSet::from([10]) };
        tree.grow(&processes(10));
        // The head is gone; a member has a child since.
        tree.grow(&[processes(1)[0], ProcStat { pid: 15, parent: 11, session: 15 }]);
        assert!(tree.members.contains(&15));
    }

    #[test]
    fn a_pid_that_was_reused_has_no_tree() {
        let mut tree = ProcessTree::left_by(std::process::id() as i32);
        assert!(tree.members.is_empty());
        tree.grow(&all(Path::new("/proc")));
        assert!(tree.members.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = parse_stat(&text);
        }

        #[test]
        fn any_tree_ends(processes in proptest::collection::vec((0i32..20, 0i32..20, 0i32..20), 0..40)) {
            let stat = |(pid, parent, session)| ProcStat { pid, parent, session };
            let processes: Vec<_> = processes.into_iter().map(stat).collect();
            prop_assert!(tree(1, &processes).len() <= 21);
        }
    }
}
