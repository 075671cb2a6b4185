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

/// Pids among `kin` that descend from `ancestor` or belong to its session, and their descendants; not itself.
pub fn offspring(kin: &[Kin], ancestor: i32) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = BTreeSet::new();
    loop {
        let before = found.len();
        for one in kin {
            let related = one.parent == ancestor || one.session == ancestor || found.contains(&one.parent);
            if related && one.pid != ancestor {
                found.insert(one.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Sends `signal` to every process that descends from `ancestor` or is of its session, but not to itself or this
/// process. Looks again until nobody new turns up. Returns how many were signalled.
pub fn signal_offspring(ancestor: i32, signal: i32) -> usize {
    let own = std::process::id() as i32;
    let mut signalled = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let mut news = false;
        for pid in offspring(&all(Path::new("/proc")), ancestor) {
            if pid > 1 && pid != own && signalled.insert(pid) {
                news |= send_signal(pid, signal) != Err(Errno::ESRCH);
            }
        }
        if !news {
            break;
        }
    }
    signalled.len()
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

    #[test]
    fn offspring_are_descendants_and_session_mates() {
        let kin = [(10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 10), (14, 13, 14), (20, 1, 20), (21, 20, 20)];
        let kin = kin.map(|(pid, parent, session)| Kin { pid, parent, session });
        assert_eq!(offspring(&kin, 10).into_iter().collect::<Vec<_>>(), [11, 12, 13, 14]);
        assert!(offspring(&kin, 99).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = parse_stat(&text);
        }

        #[test]
        fn any_tree_ends(kin in proptest::collection::vec((0i32..20, 0i32..20, 0i32..20), 0..40)) {
            let kin: Vec<_> = kin.into_iter().map(|(pid, parent, session)| Kin { pid, parent, session }).collect();
            prop_assert!(!offspring(&kin, 1).contains(&1));
        }
    }
}
