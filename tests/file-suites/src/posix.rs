//! pjdfstest (the crate), which tests POSIX's rules for files: its configuration, its output, and the tests whose result in a
//! share may be another than on the host.

use std::collections::BTreeMap;

/// The configuration: features of Linux, and two users that every Debian has.
pub const CONFIG: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [['nobody', 'nogroup'], ['daemon', 'daemon']]
";

const PASSED: &str = "ok";
const FAILED: &str = "FAILED";
const SKIPPED: &str = "skipped";

/// glibc knows no limit of links for FUSE, and answers 127. The suite leaves the test out where it finds no limit.
const LINKS: &str = "link::link_count_max";

/// The results of a run by the names of its tests.
pub type Results = BTreeMap<String, String>;

/// The results in the suite's output, without colours. Reasons, which follow in lines that are indented, have names of temporary
/// files in them, and are left out.
#[must_use]
pub fn results(output: &str) -> Results {
    let lines = output.lines().filter(|line| !line.starts_with(char::is_whitespace) && line.contains("::"));
    let result = |line: &str| line.split_once(' ').map(|(name, result)| (name.to_owned(), result.trim().to_owned()));
    lines.filter_map(result).collect()
}

/// The result that a test may have in a share although it passes on the host. A share refuses device nodes but whiteouts; the
/// suite makes character devices with a number only in these tests.
fn permitted(name: &str) -> Option<&'static str> {
    let is_node = name.ends_with("::block") || name.starts_with("mknod::") && name.ends_with("::char");
    match name {
        LINKS => Some(SKIPPED),
        _ if is_node => Some(FAILED),
        _ => None,
    }
}

/// Numbers of tests of a run in a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that the suite left out.
    pub skipped: usize,
    /// Tests of device nodes, which the share refused.
    pub refused: usize,
}

/// Counts the results in a share.
///
/// # Panics
/// If the same tests did not run in both, if one has another result in the share without being permitted to, or if one failed
/// in both.
#[track_caller]
pub fn compare(native: &Results, share: &Results) -> Outcome {
    let names = |results: &Results| results.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(native), names(share), "the tests that ran natively, and in the share");
    let wrong: Vec<String> = native
        .iter()
        .map(|(name, result)| (name, result.as_str(), share[name].as_str()))
        .filter(|(name, native, share)| {
            *native == FAILED || native != share && !(*native == PASSED && permitted(name) == Some(*share))
        })
        .map(|(name, native, share)| format!("{name}: {native}, in the share {share}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let count = |result: &str| share.values().filter(|found| *found == result).count();
    Outcome { passed: count(PASSED), skipped: count(SKIPPED), refused: count(FAILED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str = "\
chmod::a                                    ok
mknod::b::block                             ok
link::link_count_max                        ok
open::c                                     skipped
        reason::of c
";

    fn with(name: &str, result: &str) -> Results {
        let mut changed = results(NATIVE);
        changed.insert(name.to_owned(), result.to_owned());
        changed
    }

    fn panics(native: &Results, share: &Results) -> bool {
        std::panic::catch_unwind(|| compare(native, share)).is_err()
    }

    #[test]
    fn only_device_nodes_and_the_limit_of_links_may_differ() {
        let native = results(NATIVE);
        assert_eq!(native.len(), 4, "{native:?}");
        assert_eq!(compare(&native, &native), Outcome { passed: 3, skipped: 1, refused: 0 });
        assert_eq!(compare(&native, &with("mknod::b::block", FAILED)), Outcome { passed: 2, skipped: 1, refused: 1 });
        assert_eq!(compare(&native, &with(LINKS, SKIPPED)), Outcome { passed: 2, skipped: 2, refused: 0 });
        for (name, result) in [("chmod::a", FAILED), ("mknod::b::block", SKIPPED), (LINKS, FAILED), ("open::c", PASSED)]
        {
            assert!(panics(&native, &with(name, result)), "{name} {result}");
        }
        assert!(panics(&native, &with("open::d", PASSED)), "a test that did not run natively");
        assert!(panics(&with("chmod::a", FAILED), &with("chmod::a", FAILED)), "a failure in both");
    }
}
