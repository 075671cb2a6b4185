//! Who descends from whom, read from `/proc`. For signals to all of a process's offspring. Any thread.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::errno::Errno;

use crate::sys::send_signal;

/// Looks at the tree again at most this often: a process that forks as fast as it is signalled must not hold us.
const MAX_ROUNDS: usize = 16;

/// What `/proc/PID/stat` says about kinship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kin {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
}

/// Parses `/proc/PID/stat`. The name in it may contain anything, so the fields are counted from its last `)`.
pub fn parse_stat(stat: &str) -> Option<Kin> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, fields) = rest.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Kin { pid: pid.parse().ok()?, parent, session })
}

/// All processes of `proc`.
fn all(proc: &Path) -> Vec<Kin> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.filter_map(|name| parse_stat(&fs::read_to_string(proc.join(name).join("stat")).ok()?)).collect()
}

/// A process and all that descend from it or belong to its session. Those stay in the set whose parents end meanwhile.
pub struct Family {
    head: i32,
    members: BTreeSet<i32>,
}

impl Family {
    /// The family of `head` as it is now. To be called before any of them is signalled: the children of one that has
    /// ended are process 1's.
    pub fn of(head: i32) -> Self {
        let mut family = Self { head, members: BTreeSet::from([head]) };
        family.grow(&all(Path::new("/proc")));
        family
    }

    /// What is left of the family of `head`, which has ended and been reaped. If there is a process with its pid, that is
    /// another one: the kernel gives no pid away that a session still bears.
    pub fn left_by(head: i32) -> Self {
        let kin = all(Path::new("/proc"));
        let mut family = Self { head, members: BTreeSet::from([head]) };
        match kin.iter().any(|one| one.pid == head) {
            true => family.members.clear(),
            false => family.grow(&kin),
        }
        family
    }

    /// Adds those of `kin` that belong to the family.
    fn grow(&mut self, kin: &[Kin]) {
        loop {
            let before = self.members.len();
            for one in kin {
                if self.members.contains(&one.parent) || self.members.contains(&one.session) {
                    self.members.insert(one.pid);
                }
            }
            if self.members.len() == before {
                return;
            }
        }
    }

    /// Sends `signal` to everybody but the head. Looks again until nobody new turns up.
    pub fn signal_offspring(mut self, signal: i32) {
        let mut signalled = BTreeSet::from([self.head, std::process::id() as i32]);
        for _ in 0..MAX_ROUNDS {
            let mut news = false;
            for &pid in &self.members {
                // Process 1 and kernel threads (whose session is 0) are nobody's family.
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
        let kin = Kin { pid: 12, parent: 3, session: 5 };
        assert_eq!(parse_stat("12 (a) b (c)) S 3 4 5 0 -1"), Some(kin));
        assert_eq!(parse_stat("12 () S 3 4 5"), Some(kin));
        for bad in ["", "12", "12 (x", "12 (x) S 3", "x (x) S 3 4 5"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn own_entry_is_understood() {
        let kin = parse_stat(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(kin.pid, std::process::id() as i32);
        assert!(all(Path::new("/proc")).contains(&kin));
    }

    fn family(head: i32, kin: &[Kin]) -> Vec<i32> {
        let mut family = Family { head, members: BTreeSet::from([head]) };
        family.grow(kin);
        family.members.into_iter().collect()
    }

    #[test]
    fn a_family_is_descendants_and_session_mates() {
        let kin = [(10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 10), (14, 13, 14), (20, 1, 20), (21, 20, 20)];
        let kin = kin.map(|(pid, parent, session)| Kin { pid, parent, session });
        assert_eq!(family(10, &kin), [10, 11, 12, 13, 14]);
        assert_eq!(family(99, &kin), [99]);
    }

    #[test]
    fn orphans_stay_in_the_family_that_was_seen_before() {
        let kin = |parent| [Kin { pid: 11, parent, session: 11 }, Kin { pid: 12, parent: 11, session: 12 }];
        let mut family = Family { head: 10, members: BTreeSet::from([10]) };
        family.grow(&kin(10));
        // The head is gone; a member has a child since.
        family.grow(&[kin(1)[0], Kin { pid: 15, parent: 11, session: 15 }]);
        assert!(family.members.contains(&15));
    }

    #[test]
    fn a_pid_that_was_given_away_has_no_family() {
        let mut family = Family::left_by(std::process::id() as i32);
        assert!(family.members.is_empty());
        family.grow(&all(Path::new("/proc")));
        assert!(family.members.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = parse_stat(&text);
        }

        #[test]
        fn any_tree_ends(kin in proptest::collection::vec((0i32..20, 0i32..20, 0i32..20), 0..40)) {
            let kin: Vec<_> = kin.into_iter().map(|(pid, parent, session)| Kin { pid, parent, session }).collect();
            prop_assert!(family(1, &kin).len() <= 21);
        }
    }
}
