//! The command as a process: exit codes, signals, stdio, environment, directory, user.

use std::time::Duration;

use hutch_e2e::{Hutch, RootFs, HANG_TIMEOUT};
use nix::sys::signal::Signal;

#[test]
fn exit_codes_are_those_of_a_shell() {
    let root = RootFs::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let ended = Hutch::run(&root).sh(script).end();
        assert_eq!(ended.code(), Some(code), "{script}: {ended}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_127_and_named() {
    let root = RootFs::new();
    for name in ["no-such-program", "/bin/no-such-program"] {
        Hutch::run(&root).args(["--", name]).end().expect_code(127).expect_complaint(&[name]);
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_126_and_named() {
    let root = RootFs::new();
    for name in ["/etc/not-executable", "/etc"] {
        Hutch::run(&root).args(["--", name]).end().expect_code(126).expect_complaint(&[name]);
    }
}

#[test]
fn stdout_and_stderr_stay_apart_and_keep_every_byte() {
    let root = RootFs::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_001).collect();
    std::fs::write(root.at("/bytes"), &bytes).expect("a file in the root");
    let ended = Hutch::run(&root).sh("cat /bytes; echo complaint >&2").end().expect_code(0);
    assert!(ended.stdout == bytes, "{} bytes came", ended.stdout.len());
    assert_eq!(ended.stderr, "complaint\n");
}

#[test]
fn stdin_arrives_and_so_does_its_end() {
    let root = RootFs::new();
    let ended = Hutch::run(&root).args(["-i"]).input("a\nb\n").sh("cat; echo end").end();
    ended.expect_code(0).expect_text("a\nb\nend\n");
}

#[test]
fn without_i_stdin_is_empty() {
    let root = RootFs::new();
    Hutch::run(&root).input("not for the guest").sh("cat; echo end").end().expect_code(0).expect_text("end\n");
}

#[test]
fn a_command_that_closes_its_output_early_does_not_hang_the_run() {
    let root = RootFs::new();
    let run = Hutch::run(&root).args(["-i"]).input(vec![b'x'; 1 << 20]);
    run.sh("exec <&- >&- 2>&-; exit 3").end().expect_code(3).expect_text("");
}

#[test]
fn output_of_background_processes_is_not_waited_for_forever() {
    let root = RootFs::new();
    let run = Hutch::run(&root);
    run.sh("sleep 10000 & echo started").end().expect_code(0).expect_text("started\n");
}

#[test]
fn signals_reach_the_command() {
    let root = RootFs::new();
    let signals =
        [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGHUP, "HUP"), (Signal::SIGUSR1, "USR1")];
    for (signal, name) in signals {
        let script = format!("trap 'echo got {name}; exit 5' {name}; echo r > /tmp/ready; while :; do sleep 0.1; done");
        let running = Hutch::run(&root).sh(&script).start();
        wait_for(&root, "/tmp/ready");
        running.signal(signal);
        running.end(HANG_TIMEOUT).expect_code(5).expect_text(&format!("got {name}\n"));
        std::fs::remove_file(root.at("/tmp/ready")).expect("the mark can be removed");
    }
}

#[test]
fn a_signal_without_a_handler_ends_the_command_as_that_signal() {
    let root = RootFs::new();
    let running = Hutch::run(&root).sh("echo r > /tmp/ready; exec sleep 1000").start();
    wait_for(&root, "/tmp/ready");
    running.signal(Signal::SIGTERM);
    running.end(HANG_TIMEOUT).expect_code(143);
}

#[test]
fn the_environment_is_what_was_asked_for_and_no_more() {
    let root = RootFs::new();
    let run = Hutch::run(&root).env("CARRIED", "from outside").env("SECRET", "stays");
    let run = run.args(["-e", "A=b=c", "-e", "EMPTY=", "-e", "CARRIED", "--", "/bin/env"]);
    let text = run.end().expect_code(0).text();
    for line in ["A=b=c", "EMPTY=", "CARRIED=from outside", "HOME=/root"] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    assert!(text.lines().any(|l| l.starts_with("PATH=")), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
}

#[test]
fn the_working_directory_is_set() {
    let root = RootFs::new();
    Hutch::run(&root).args(["-w", "/home/user", "--", "/bin/pwd"]).end().expect_code(0).expect_text("/home/user\n");
    Hutch::run(&root).args(["--", "/bin/pwd"]).end().expect_code(0).expect_text("/\n");
}

#[test]
fn the_user_is_resolved_in_the_root_file_system() {
    let root = RootFs::new();
    let script = "echo $(id -u) $(id -g) $HOME";
    for (user, expected) in [
        ("user", "1000 1000 /home/user\n"),
        ("user:audio", "1000 29 /home/user\n"),
        ("1000:29", "1000 29 /home/user\n"),
        ("1234", "1234 0 /\n"),
    ] {
        let ended = Hutch::run(&root).args(["-u", user]).sh(script).end();
        assert_eq!((ended.code(), ended.text().as_str()), (Some(0), expected), "{user}: {ended}");
    }
    Hutch::run(&root).args(["-u", "nobody-here"]).sh("true").end().expect_code(125).expect_complaint(&["nobody-here"]);
}

#[test]
fn zombies_are_reaped() {
    let root = RootFs::new();
    let script = "for i in 1 2 3 4 5; do (sleep 0.1 & exit) & done; sleep 1; ps -o stat | grep -c Z";
    Hutch::run(&root).sh(script).end().expect_text("0\n");
}

fn wait_for(root: &RootFs, path: &str) {
    let deadline = std::time::Instant::now() + HANG_TIMEOUT;
    while !root.at(path).exists() {
        assert!(std::time::Instant::now() < deadline, "the guest did not write {path}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
