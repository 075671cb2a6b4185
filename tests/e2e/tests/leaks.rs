//! hutch leaves nothing behind after many boots, after kill -9 at any moment, and after failures.

use std::time::{Duration, Instant};

use hutch_e2e::{quick, Hutch, RootFs, Snapshot, HANG_TIMEOUT};
use nix::sys::signal::Signal;

/// Parallel rows of boots: the testbed has two processors.
const ROWS: usize = 2;

/// Total number of boots. Each takes one or two seconds in the testbed.
fn boots() -> u32 {
    let default = if quick() { 20 } else { 100 };
    std::env::var("HUTCH_E2E_BOOTS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn many_boots_in_a_row_all_work_and_leave_nothing() {
    let root = RootFs::new();
    let once = |n: u32| {
        let run = Hutch::run(&root).args(["--memory", "128M"]);
        let code = (n % 100) as i32;
        run.sh(&format!("echo {n}; exit {code}")).end().expect_code(code).expect_text(&format!("{n}\n"));
    };
    once(0); // the first run makes the state directory, which stays
    let before = Snapshot::take();
    let (begin, boots) = (Instant::now(), boots());
    let row = |first: usize| (1..=boots).skip(first).step_by(ROWS).for_each(once);
    std::thread::scope(|scope| (0..ROWS).for_each(|first| drop(scope.spawn(move || row(first)))));
    println!("{boots} boots, {:.2} s each", begin.elapsed().as_secs_f64() / f64::from(boots));
    before.expect_no_leaks();
}

/// In the testbed, whose /tmp begins as the host's.
#[test]
fn a_file_left_in_the_directory_for_temporary_files_is_noticed() {
    let before = Snapshot::take();
    let file = tempfile::Builder::new().prefix("hutch-leak-").tempfile_in("/tmp").expect("a file");
    let name = file.path().to_string_lossy().into_owned();
    let news = before.news();
    assert!(news.iter().any(|entry| entry.ends_with(&name)), "{news:?}");
}

#[test]
fn kill_9_at_any_moment_leaves_nothing() {
    let root = RootFs::new();
    let run = || Hutch::run(&root).args(["--memory", "128M", "--cpus", "2"]).sh("sleep 1");
    let begin = Instant::now();
    run().end().expect_code(0);
    let whole = begin.elapsed();
    let before = Snapshot::take();
    let rounds = if quick() { 10 } else { 20 };
    for round in 0..rounds {
        let running = run().start();
        // Irregular steps, spread over the whole run.
        std::thread::sleep(whole * (round * 7 % rounds) / rounds);
        running.signal(Signal::SIGKILL);
        let ended = running.end(HANG_TIMEOUT);
        let killed = std::os::unix::process::ExitStatusExt::signal(&ended.status) == Some(9);
        assert!(killed || ended.code() == Some(0), "{ended}");
    }
    before.expect_no_leaks();
    run().end().expect_code(0);
}

#[test]
fn failures_leave_nothing() {
    let root = RootFs::new();
    let before = Snapshot::take();
    Hutch::run(&root).args(["--", "/no/such/program"]).end().expect_code(127);
    Hutch::run(&root).args(["--timeout", "1"]).sh("sleep 100").end().expect_code(124);
    Hutch::run(&root).args(["--memory", "0"]).sh("true").end().expect_code(125);
    Hutch::run(&root).kernel("/etc/passwd").sh("true").end().expect_code(125);
    let running = Hutch::run(&root).sh("sleep 100").start();
    std::thread::sleep(Duration::from_secs(1));
    running.signal(Signal::SIGTERM);
    running.end(HANG_TIMEOUT);
    before.expect_no_leaks();
}
