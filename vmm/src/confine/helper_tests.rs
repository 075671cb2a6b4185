//! Helpers of the tests of this folder: tests in processes of their own, since what a process gives up does not come back.

use std::io::Write;
use std::process::Command;

/// Runs the ignored test of this name under `confine::` in a process of its own. It must succeed and say "checked inside". Tests
/// that it skips count as skipped here too.
pub fn check_inside(test: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &format!("confine::{test}"), "--ignored", "--nocapture"]);
    let output = command.output().expect("this program again");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("checked inside"), "{text}");
    for why in text.lines().filter_map(|line| line.split_once("SKIPPED: ")) {
        skip(why.1);
    }
}

/// Says that this test, or a part of it, cannot run here. Bypasses the capture of output, in the form that `cargo xtask test` counts.
pub fn skip(why: &str) {
    std::io::stdout().write_all(format!("SKIPPED: {why}\n").as_bytes()).expect("stdout");
}
