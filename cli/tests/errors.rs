//! Mistakes on the command line of the built program: exit codes, one line on stderr, nothing on stdout. Needs no KVM.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn hutch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hutch"))
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("hutch starts")
}

#[track_caller]
fn fails(args: &[&str], code: i32, word: &str) {
    let output = hutch(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    assert!(stderr.contains(word), "{args:?}: no {word:?} in: {stderr}");
}

/// `hutch run --rootfs DIR ARGS -- true` fails with 125 and one line that contains `word`.
#[track_caller]
fn run_fails(dir: &Path, args: &[&str], word: &str) {
    let mut all = vec!["run", "--rootfs", dir.to_str().unwrap()];
    all.extend(args);
    all.extend(["--", "true"]);
    fails(&all, 125, word);
    let lines = String::from_utf8(hutch(&all).stderr).unwrap();
    assert!(lines.starts_with("hutch: ") && lines.lines().count() == 1, "{args:?}: {lines}");
}

#[test]
fn usage_errors_are_2_and_those_of_run_125() {
    fails(&[], 2, "Usage");
    fails(&["nonsense"], 2, "nonsense");
    fails(&["doctor", "--format", "yaml"], 2, "yaml");
    fails(&["--log-level", "loud", "version"], 2, "loud");
    fails(&["run"], 125, "--rootfs");
    fails(&["run", "--rootfs", "/"], 125, "CMD");
    fails(&["run", "--nonsense", "--rootfs", "/", "true"], 125, "--nonsense");
}

#[test]
fn bad_input_of_run_is_found_before_any_machine_is_made() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let file = dir.path().join("file");
    let file = file.to_str().unwrap();
    for (args, word) in [
        (&["--memory", "0"][..], "--memory"),
        (&["--memory", "100T"], "more than this host has"),
        (&["--cpus", "0"], "--cpus"),
        (&["--cpus", "1000"], "--cpus"),
        (&["--kernel", "/no/such/kernel"], "/no/such/kernel"),
        (&["--initrd", "/no/such/initrd"], "/no/such/initrd"),
        (&["--console", "/no/such/dir/file"], "/no/such/dir/file"),
        (&["-v", "/no/such/source:/x"], "/no/such/source"),
        (&["-v", &format!("{file}:relative")], "relative"),
        (&["-v", &format!("{file}:/x"), "--tmpfs", "/x"], "twice"),
        (&["-u", "a:b:c"], "a:b:c"),
        (&["-w", "relative"], "relative"),
        (&["--timeout", "never"], "never"),
        (&["--net", "host"], "host"),
        (&["--guest-dir", "/no/such/guest"], "hutch guest build"),
    ] {
        run_fails(dir.path(), args, word);
    }
    fails(&["run", "--rootfs", "/no/such/root", "--", "true"], 125, "/no/such/root");
    fails(&["run", "--rootfs", file, "--", "true"], 125, "holds no file system");
}

#[test]
fn a_root_that_cannot_be_read_is_named() {
    if nix::unistd::geteuid().is_root() {
        // Root can read every file. A dangling link fails in a similar way.
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        fails(&["run", "--rootfs", link.to_str().unwrap(), "--", "true"], 125, "--rootfs");
        return;
    }
    fails(&["run", "--rootfs", "/root", "--", "true"], 125, "ermission");
}

#[test]
fn words_that_are_not_utf8_are_refused() {
    let bad = std::ffi::OsString::from_vec(b"caf\xe9".to_vec());
    let output = Command::new(env!("CARGO_BIN_EXE_hutch"))
        .args(["run", "--rootfs", "/", "--", "echo"])
        .arg(bad)
        .output()
        .expect("hutch starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"));
}

#[test]
fn a_log_file_that_cannot_be_written_is_named() {
    fails(&["--log-file", "/no/such/dir/log", "version"], 1, "/no/such/dir/log");
}

#[test]
fn a_bad_level_in_the_environment_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_hutch"))
        .arg("version")
        .env("HUTCH_LOG", "loud")
        .output()
        .expect("hutch starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HUTCH_LOG"));
}

#[test]
fn versions_and_help_go_to_stdout() {
    for args in [&["version"][..], &["--version"], &["-V"], &["-h"], &["run", "-h"], &["doctor", "--help"]] {
        let output = hutch(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let version = String::from_utf8(hutch(&["--version"]).stdout).unwrap();
    assert_eq!(version, concat!("hutch ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn doctor_without_assets_fails_with_a_remedy_and_stable_json() {
    let output = hutch(&["doctor", "--guest-dir", "/no/such/guest", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["format"].as_u64(), report["usable"].as_bool()), (Some(1), Some(false)));
    let findings = report["findings"].as_array().unwrap();
    let assets = findings.iter().find(|f| f["check"] == "guest-assets").unwrap();
    assert_eq!(assets["status"], "failure");
    assert!(assets["remedy"].as_str().unwrap().contains("hutch guest build"));
    for finding in findings {
        assert!(["ok", "warning", "failure"].contains(&finding["status"].as_str().unwrap()), "{finding}");
        assert_eq!(finding["status"] == "ok", finding["remedy"].is_null(), "{finding}");
    }
    let table = String::from_utf8(hutch(&["doctor", "--guest-dir", "/no/such/guest"]).stdout).unwrap();
    assert!(table.contains("FAILURE") && table.contains("would not work"), "{table}");
}

/// As in `hutch schema | head -1`: the reader is gone on purpose.
#[test]
fn a_closed_stdout_causes_no_panic_and_no_message() {
    for args in [&["schema"] as &[&str], &["doctor", "--guest-dir", "/no/such/guest"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            Command::new(env!("CARGO_BIN_EXE_hutch")).args(args).stdout(writer).output().expect("hutch starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(141), "{args:?}");
    }
}

#[test]
fn cleanup_removes_leftovers_and_no_pod() {
    let dir = TempDir::new().unwrap();
    let (root, state) = (dir.path().join("etc"), dir.path().join("run"));
    let cleanup =
        || hutch(&["pod", "--root", root.to_str().unwrap(), "--state-root", state.to_str().unwrap(), "cleanup"]);
    assert!(cleanup().status.success(), "no roots yet");
    // The leftovers of a creation that was killed early, and a pod whose host was restarted.
    fs::create_dir_all(state.join("half/shared")).unwrap();
    fs::write(state.join("half/lock"), "").unwrap();
    fs::create_dir_all(root.join("whole")).unwrap();
    let record = r#"{"version":1,"record":"pod-config","data":{"id":"whole"}}"#;
    fs::write(root.join("whole/config.json"), record).unwrap();
    let dry = hutch(&[
        "pod",
        "--root",
        root.to_str().unwrap(),
        "--state-root",
        state.to_str().unwrap(),
        "cleanup",
        "--dry-run",
    ]);
    assert_eq!(String::from_utf8_lossy(&dry.stdout), "half\n", "{}", String::from_utf8_lossy(&dry.stderr));
    assert!(dry.status.success() && state.join("half/lock").exists());
    let output = cleanup();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "half\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !state.join("half").exists() && root.join("whole/config.json").exists());
    assert!(cleanup().stdout.is_empty(), "nothing is left to clean");
    // Directories of others are named, and keep what is in them.
    fs::create_dir_all(root.join("alice")).unwrap();
    fs::write(root.join("alice/letter"), "x").unwrap();
    let output = cleanup();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("alice") && errors.contains("not made by hutch"), "{errors}");
    assert_eq!(fs::read_to_string(root.join("alice/letter")).unwrap(), "x");
}

/// The case that lost home directories.
#[test]
fn a_root_that_is_not_hutchs_keeps_its_files_whatever_the_command() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("home");
    for name in ["alice/.ssh", "bob"] {
        fs::create_dir_all(home.join(name)).unwrap();
    }
    fs::write(home.join("alice/.ssh/id"), "secret").unwrap();
    let state = dir.path().join("run");
    let args = ["--root", home.to_str().unwrap(), "--state-root", state.to_str().unwrap()];
    for verb in [&["cleanup"] as &[&str], &["rm", "alice"], &["rm", "-f", "alice", "bob"], &["stop", "-f", "bob"]] {
        let output = hutch(&[&["pod"], args.as_slice(), verb].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {errors}");
        assert!(errors.contains("not made by hutch") && errors.contains("--root"), "{verb:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read_to_string(home.join("alice/.ssh/id")).unwrap(), "secret");
    assert!(home.join("bob").is_dir() && !home.join(".hutch-root.json").exists());
}

/// The longest time that can be given: the addition to the clock overflowed, and the program aborted.
#[test]
fn a_stop_may_be_given_all_the_time_in_the_world() {
    let dir = TempDir::new().unwrap();
    let (root, state) = (dir.path().join("etc"), dir.path().join("run"));
    let roots = ["--root", root.to_str().unwrap(), "--state-root", state.to_str().unwrap()];
    for seconds in ["10000000000000000000", "18446744073709551615"] {
        let output = hutch(&[&["pod"], roots.as_slice(), &["stop", "p1", "-t", seconds]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(matches!(output.status.code(), Some(1 | 2)), "{seconds}: {:?} {errors}", output.status);
    }
}
