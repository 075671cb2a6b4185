//! Pods and containers with real machines. Each call is a command line of its own.

use std::time::{Duration, Instant};

use hutch_e2e::{quick, Pods, Snapshot, HANG_TIMEOUT};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn a_pod_lives_from_creation_to_removal() {
    let pods = Pods::new();
    let before = Snapshot::take();
    let made = pods.new_pod("create", "web").sh("echo up > /tmp/up; trap 'exit 9' TERM; while :; do sleep 1; done");
    made.end().expect_code(0).expect_text("web\n");
    assert_eq!(pods.status("web", "/state"), "ready");
    assert!(!pods.root().at("/tmp/up").exists(), "nothing of the workload has run (P-060)");
    pods.new_pod("create", "web").sh("true").end().expect_code(1).expect_complaint(&["web", "exists"]);
    pods.ok(&["pod", "start", "web"]);
    assert_eq!(pods.status("web", "/containers/0/state"), "running");
    let list = pods.ok(&["pod", "ls"]);
    assert!(list.lines().any(|line| line.starts_with("web") && line.contains("running")), "{list}");

    pods.exec("web", "web", "cat /proc/1/comm; hostname; exit 4").expect_code(4).expect_text("sh\nweb\n");
    let words = ["container", "exec", "-u", "1234:5678", "-e", "A=b=c", "-w", "/tmp", "web", "web", "--"];
    let run = pods.hutch(&words).args(["/bin/sh", "-c", "id -u; id -g; echo $A; pwd"]).end();
    run.expect_code(0).expect_text("1234\n5678\nb=c\n/tmp\n");
    pods.exec("web", "web", "kill -9 $$").expect_code(137);
    pods.hutch(&["container", "exec", "web", "web", "--", "/no/such"]).end().expect_code(127);
    let run = pods.hutch(&["container", "exec", "-i", "web", "web", "--", "/bin/cat"]).input("through").end();
    run.expect_code(0).expect_text("through");

    let list = pods.ok(&["container", "ps", "web", "web", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert!(list[0]["command"].as_str().is_some_and(|command| command.contains("trap")), "{list}");
    let stats = pods.ok(&["container", "stats", "web", "web", "--format", "json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");

    pods.hutch(&["pod", "rm", "web"]).end().expect_code(1).expect_complaint(&["running"]);
    pods.ok(&["container", "kill", "-s", "TERM", "web", "web"]);
    pods.hutch(&["container", "wait", "web", "web"]).end().expect_code(9);
    assert_eq!(pods.status("web", "/containers/0/exit/code"), 9);
    pods.ok(&["pod", "stop", "web"]);
    assert_eq!((pods.status("web", "/state"), pods.status("web", "/vmm_pid")), (json!("stopped"), json!(0)));
    pods.ok(&["pod", "rm", "web"]);
    pods.expect_none();
    before.expect_no_leaks();
}

#[test]
fn containers_come_to_a_running_pod_and_go() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d"]).sh("sleep 1000").end().expect_code(0).expect_text("p\n");
    let root = pods.root().path().to_string_lossy().into_owned();
    let create = |name: &str, script: &str| {
        let words = ["container", "create", "p", "--name", name, "--rootfs", &root, "--", "/bin/sh", "-c", script];
        pods.hutch(&words).end().expect_code(0);
    };
    create("a", "hostname; exit 3");
    create("b", "exec sleep 2000");
    pods.ok(&["container", "start", "p", "a", "b"]);
    pods.hutch(&["container", "wait", "p", "a"]).end().expect_code(3);
    // Each container sees only its own processes.
    let seen = pods.exec("p", "b", "ps | grep -c 'sleep [2]000'; ps | grep -c 'sleep [1]000'").text();
    assert_eq!(seen, "1\n0\n");
    pods.ok(&["container", "update", "p", "b", "--pids-limit", "3", "-m", "64M"]);
    let stats = pods.ok(&["container", "stats", "p", "b", "--format", "json"]);
    assert!(stats.contains(&(64 << 20).to_string()), "{stats}");
    pods.hutch(&["container", "rm", "p", "b"]).end().expect_code(1).expect_complaint(&["b", "running"]);
    pods.ok(&["container", "rm", "-f", "p", "a", "b"]);
    create("a", "true");
    assert_eq!(pods.status("p", "/containers/1/id"), "a");
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}

#[test]
fn a_pod_that_is_attached_is_like_a_command() {
    let pods = Pods::new();
    let run = |name: &str| pods.new_pod("run", name);
    let ended = run("one").sh("echo out; echo err >&2; exit 7").end().expect_code(7).expect_text("out\n");
    assert_eq!(ended.stderr, "err\n");
    run("two").args(["-i"]).sh("cat").input("in and out").end().expect_code(0).expect_text("in and out");
    run("three").args(["--", "/no/such"]).end().expect_code(127);
    run("four").args(["--", "/etc/passwd"]).end().expect_code(126);
    let running = run("five").sh("trap 'exit 5' TERM; echo > /tmp/there; while :; do sleep 0.1; done").start();
    let deadline = Instant::now() + HANG_TIMEOUT;
    while !pods.root().at("/tmp/there").exists() {
        assert!(Instant::now() < deadline, "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    // hutch forwards the caller's signals once the command runs; until then it holds them back.
    running.signal(Signal::SIGTERM);
    running.end(HANG_TIMEOUT).expect_code(5);
    pods.expect_none();
}

#[test]
fn a_paused_pod_stands_still() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d"]).sh("while :; do echo x >> /tmp/log; sleep 0.05; done").end().expect_code(0);
    pods.ok(&["pod", "pause", "p"]);
    assert_eq!(pods.status("p", "/state"), "paused");
    let size = || std::fs::metadata(pods.root().at("/tmp/log")).map_or(0, |meta| meta.len());
    let (before, _) = (size(), std::thread::sleep(Duration::from_millis(500)));
    assert_eq!(size(), before);
    pods.exec("p", "p", "true").expect_code(125).expect_complaint(&["paused"]);
    pods.ok(&["pod", "resume", "p"]);
    pods.exec("p", "p", "true").expect_code(0);
    // A paused pod can be stopped (P-083).
    pods.ok(&["pod", "pause", "p"]);
    pods.ok(&["pod", "stop", "-t", "1", "p"]);
    // A stopped pod can be started again, with a new machine (P-072).
    pods.ok(&["pod", "start", "p"]);
    pods.exec("p", "p", "true").expect_code(0);
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}

#[test]
fn a_machine_that_dies_is_noticed_and_leaves_a_pod_that_can_be_removed() {
    let pods = Pods::new();
    let before = Snapshot::take();
    pods.new_pod("run", "p").args(["-d"]).sh("sleep 1000").end().expect_code(0);
    let vmm = pods.status("p", "/vmm_pid").as_i64().expect("a PID") as i32;
    let killed = Instant::now();
    kill(Pid::from_raw(vmm), Signal::SIGKILL).expect("a signal");
    // No caller asks for the status: the shim detects the end.
    let record = pods.state("p").join("failure.json");
    while std::fs::metadata(&record).map_or(0, |found| found.len()) == 0 {
        assert!(killed.elapsed() < HANG_TIMEOUT, "it is not noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("noticed after {:?}", killed.elapsed());
    let reason = pods.status("p", "/reason");
    assert!(reason.as_str().is_some_and(|reason| reason.contains("ended unexpectedly")), "{reason}");
    assert_eq!(pods.status("p", "/containers/0/state"), "stopped");
    pods.exec("p", "p", "true").expect_code(125);
    pods.ok(&["pod", "stop", "p"]);
    pods.ok(&["pod", "rm", "p"]);
    pods.expect_none();
    before.expect_no_leaks();
}

/// Each verb runs in its own process here; `runtime.rs` makes a hundred pods in one process.
#[test]
fn many_pods_in_a_row_leave_nothing() {
    let pods = Pods::new();
    let once = |n: u32| {
        let code = (n % 100) as i32;
        pods.new_pod("run", "p")
            .sh(&format!("echo {n}; exit {code}"))
            .end()
            .expect_code(code)
            .expect_text(&format!("{n}\n"));
    };
    once(0);
    let before = Snapshot::take();
    let count = if quick() { 5 } else { 10 };
    let begin = Instant::now();
    (1..=count).for_each(once);
    println!("{count} pods, {:.2} s each", begin.elapsed().as_secs_f64() / f64::from(count));
    pods.expect_none();
    before.expect_no_leaks();
}

/// Early in a creation few files exist; late, nearly all do.
#[test]
fn what_a_killed_creation_leaves_is_cleaned_up() {
    let pods = Pods::new();
    pods.new_pod("run", "other").args(["-d"]).sh("sleep 1000").end().expect_code(0);
    let before = Snapshot::take();
    let begin = Instant::now();
    pods.new_pod("create", "p").sh("true").end().expect_code(0);
    let mut whole = begin.elapsed();
    pods.ok(&["pod", "rm", "p"]);
    let mut left = 0;
    // Three that were killed in between, and six at least.
    for part in (1..=6).cycle().take(60) {
        let running = pods.new_pod("create", "p").sh("true").start();
        std::thread::sleep(whole * part / 7);
        running.signal(Signal::SIGKILL);
        let complete = running.end(HANG_TIMEOUT).code().is_some();
        left += usize::from(!pods.ok(&["pod", "cleanup"]).is_empty());
        // If the creation had just finished, the pod is complete and cleanup leaves it alone.
        pods.ok(&["pod", "rm", "-f", "p"]);
        before.expect_no_leaks();
        if part == 6 && left >= 3 {
            break;
        }
        if complete {
            // The host was busier when it was measured.
            whole = whole * 3 / 4;
        }
    }
    assert!(left >= 3, "only {left} of 60 were killed in between");
    assert_eq!(pods.status("other", "/state"), "running");
    pods.ok(&["pod", "rm", "-f", "other"]);
    pods.expect_none();
}

#[test]
fn pods_live_side_by_side() {
    let pods = Pods::new();
    let names: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let pods = &pods;
            scope.spawn(move || {
                pods.new_pod("run", name).args(["-d"]).sh("sleep 1000").end().expect_code(0);
                pods.exec(name, name, "hostname").expect_code(0).expect_text(&format!("{name}\n"));
            });
        }
    });
    assert_eq!(pods.ok(&["pod", "ls", "-q"]).lines().count(), names.len());
    pods.ok(&["pod", "rm", "-f", "--all"]);
    pods.expect_none();
}
