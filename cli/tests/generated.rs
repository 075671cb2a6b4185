//! Outputs that the built program derives from itself: its version, completion scripts and man pages. Needs no KVM.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn hutch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hutch")).args(args).stdin(Stdio::null()).output().expect("hutch starts")
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = hutch(args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_version_names_the_build() {
    let json: serde_json::Value = serde_json::from_str(&stdout(&["version", "--format", "json"])).unwrap();
    let text = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
    assert_eq!(text("version"), env!("CARGO_PKG_VERSION"));
    assert!(json["agent_protocol"].is_u64() && json["static"].is_boolean(), "{json}");
    assert!(text("target").contains("linux") && text("rustc").starts_with("rustc "), "{json}");
    assert!(["debug", "release"].contains(&text("profile").as_str()), "{json}");
    let table = stdout(&["version"]);
    assert!(table.starts_with(concat!("hutch ", env!("CARGO_PKG_VERSION"), "\n")), "{table}");
    for name in ["target", "rustc", "profile"] {
        assert!(table.contains(&text(name)), "{table}");
    }
}

/// Asks git, if this is a git checkout and git is installed.
#[test]
fn the_commit_is_that_of_the_checkout() {
    let json: serde_json::Value = serde_json::from_str(&stdout(&["version", "--format", "json"])).unwrap();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let head = match Command::new("git").args(["-C", directory, "rev-parse", "HEAD"]).output() {
        Ok(output) if output.status.success() && std::path::Path::new(directory).join(".git").exists() => output.stdout,
        _ => return,
    };
    assert_eq!(json["commit"].as_str(), Some(String::from_utf8(head).unwrap().trim()));
}

#[test]
fn completion_scripts_are_accepted_by_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completions", shell]);
        for verb in ["run", "pod", "container", "volume", "doctor", "guest", "boot", "bench", "completions"] {
            assert!(script.contains(verb), "{shell} lacks {verb}");
        }
        // `-n`: read, but do not execute. Shells that are not installed are skipped.
        let Ok(mut child) = Command::new(shell).arg("-n").stdin(Stdio::piped()).spawn() else { continue };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell} refuses its script");
    }
    assert_eq!(hutch(&["completions", "cmd"]).status.code(), Some(2));
}

#[test]
fn man_pages_go_to_the_given_directory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("share/man/man1");
    assert!(stdout(&["__man", out.to_str().unwrap()]).is_empty());
    for (page, option) in [("hutch.1", "log"), ("hutch-run.1", "rootfs"), ("hutch-pod-run.1", "detach")] {
        let text = std::fs::read_to_string(out.join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}: {text}");
        assert!(text.contains(option), "{page} lacks {option}");
    }
    let output = hutch(&["__man"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hutch __man DIR"));
    std::fs::write(dir.path().join("file"), "").unwrap();
    let output = hutch(&["__man", dir.path().join("file/below").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write man pages"));
}
