//! The runtime is killed with SIGKILL at every named point of every mutating call.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::calls::{assert_recovers, numbered, points, was_killed, Case, CASES};

static KILLS: AtomicUsize = AtomicUsize::new(0);

/// How often a point is tried that was passed in the recorded run: some are passed only if the caller is quicker than
/// another process, such as asking the guest how a process ended before its shim has noted it.
const ATTEMPTS: usize = 5;

fn kill_everywhere(case: &Case) -> usize {
    let points = numbered(&points(case));
    let killed = points.iter().filter(|point| kill_at(case, point)).count();
    assert!(points.len() - killed <= 2, "{}: killed at {killed} of {} points", case.label(), points.len());
    let total = KILLS.fetch_add(killed, Ordering::SeqCst) + killed;
    println!("{}: killed at {killed} points of {} ({total} so far)", case.label(), points.len());
    killed
}

/// Kills the call at a point and checks what is left; `false` if the call never passed the point.
fn kill_at(case: &Case, point: &str) -> bool {
    let label = format!("{} killed at {point}", case.label());
    (0..ATTEMPTS).any(|_| {
        let stage = case.stage();
        let output = case.command(&stage).env("HUTCH_FAULT", format!("{point}:kill")).output().expect("a child");
        let killed = was_killed(output.status);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(killed || output.status.success(), "{label}: {:?} {errors}", output.status);
        assert_recovers(&stage, &label);
        killed
    })
}

/// Splits the cases over tests that run side by side.
fn part(number: usize) {
    let kills: usize = CASES.iter().skip(number).step_by(PARTS).map(kill_everywhere).sum();
    assert!(kills > 40, "{kills}");
}

const PARTS: usize = 4;

#[test]
fn p_172_a_killed_call_leaves_nothing_that_cannot_be_cleaned_1() {
    part(0);
}

#[test]
fn p_172_a_killed_call_leaves_nothing_that_cannot_be_cleaned_2() {
    part(1);
}

#[test]
fn p_172_a_killed_call_leaves_nothing_that_cannot_be_cleaned_3() {
    part(2);
}

#[test]
fn p_172_a_killed_call_leaves_nothing_that_cannot_be_cleaned_4() {
    part(3);
}
