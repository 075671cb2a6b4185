//! Programs of others that test file systems, on the device by the FUSE driver of this host's kernel (`kernel_tests.rs`).
//! `cargo xtask test` builds them and names them by variables; without, the tests report that they were skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use super::client::config;
use super::kernel_tests::{directory, mounted, script};
use super::{FsCache, FsDeviceConfig};

fn program(variable: &str) -> Option<String> {
    let path = std::env::var(variable).ok();
    if path.is_none() {
        let _ = writeln!(std::io::stdout(), "SKIPPED: {variable} is not set: `cargo xtask test` sets it");
    }
    path
}

/// The file system exerciser: random reads, writes, maps, holes, copies and truncations of one file, checked against memory.
#[test]
fn a_file_survives_random_operations() {
    let Some(fsx) = program("HUTCH_E2E_FSX") else { return };
    let all: u32 = std::env::var("HUTCH_FSX_OPERATIONS").map_or(5000, |number| number.parse().unwrap());
    for (cache, part) in [(FsCache::Auto, 2), (FsCache::Always, 4), (FsCache::Never, 4)] {
        let operations = all / part;
        let (dir, artifacts) = (directory(0), directory(0));
        let command = format!("{fsx} -S 7 -N {operations} -P {} file 2>&1", artifacts.path().display());
        mounted(FsDeviceConfig { cache, ..config(dir.path()) }, move |mount| {
            let output = script(mount, 0, &[], &command);
            assert!(output.contains("A-OK"), "{output}");
        });
    }
}

/// Features of Linux, and two users that every Debian has.
const POSIX: &str = "\
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

/// The results by the names of the tests. Reasons follow in lines that are indented.
fn results(output: &str) -> BTreeMap<String, String> {
    let lines = output.lines().filter(|line| !line.starts_with(char::is_whitespace) && line.contains("::"));
    let result = |line: &str| line.split_once(' ').map(|(name, result)| (name.to_owned(), result.trim().to_owned()));
    lines.filter_map(result).collect()
}

/// A share refuses device nodes but whiteouts; the suite makes character devices with a number only in these tests. glibc
/// knows no limit of links for FUSE, and answers 127.
fn may_differ(name: &str) -> bool {
    let nodes = name.ends_with("::block") || name.starts_with("mknod::") && name.ends_with("::char");
    nodes || name == LINKS
}

/// The suite leaves it out where it finds no limit.
const LINKS: &str = "link::link_count_max";

/// POSIX's rules for files: each test of the suite has the same result natively and by the device.
#[test]
fn posix_holds_as_on_the_host() {
    let Some(pjdfstest) = program("HUTCH_E2E_PJDFSTEST") else { return };
    let (native, share, place) = (directory(0), directory(0), directory(0));
    let file = place.path().join("posix.toml");
    fs::write(&file, POSIX).unwrap();
    let command = format!("NO_COLOR=1 {pjdfstest} -c {} -p . 2>&1; true", file.display());
    let run = move |path: &Path| results(&script(path, 0, &[], &command));
    let native = run(native.path());
    mounted(config(share.path()), move |mount| {
        let there = run(mount);
        let passed = there.values().filter(|result| *result == "ok").count();
        assert!(passed > 300, "{passed} passed: {there:?}");
        let differ = |(name, result): &(&String, &String)| there.get(*name) != Some(*result);
        let (nodes, others): (Vec<_>, Vec<_>) = native.iter().filter(differ).partition(|(name, _)| may_differ(name));
        assert!(others.is_empty(), "natively {others:?}");
        for (name, result) in &nodes {
            let expected = if *name == LINKS { "skipped" } else { "FAILED" };
            assert_eq!((result.as_str(), there[*name].as_str()), ("ok", expected), "{name}");
        }
        assert_eq!(native.len(), there.len());
        let _ = writeln!(
            std::io::stdout(),
            "pjdfstest: {passed} passed, {} differ (device nodes, and a limit of links)",
            nodes.len()
        );
    });
}
