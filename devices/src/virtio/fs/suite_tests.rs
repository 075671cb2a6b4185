//! Programs of others that test file systems, on the device by the FUSE driver of this host's kernel (`kernel_tests.rs`).
//! `cargo xtask test` builds them and names them by variables; without, the tests report that they were skipped.

use std::fs;
use std::io::Write;
use std::path::Path;

use hutch_file_suites::{compare, results, Outcome, CONFIG};

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

/// POSIX's rules for files: each test of the suite has the same result natively and by the device.
#[test]
fn posix_holds_as_on_the_host() {
    let Some(pjdfstest) = program("HUTCH_E2E_PJDFSTEST") else { return };
    let (native, share, place) = (directory(0), directory(0), directory(0));
    let file = place.path().join("posix.toml");
    fs::write(&file, CONFIG).unwrap();
    let command = format!("NO_COLOR=1 {pjdfstest} -c {} -p . 2>&1; true", file.display());
    let run = move |path: &Path| results(&script(path, 0, &[], &command));
    let native = run(native.path());
    mounted(config(share.path()), move |mount| {
        let Outcome { passed, skipped, refused } = compare(&native, &run(mount));
        assert!(passed > 300, "only {passed} tests passed");
        let line = format!("pjdfstest: {passed} passed, {skipped} skipped, {refused} refused (device nodes)");
        let _ = writeln!(std::io::stdout(), "{line}");
    });
}
