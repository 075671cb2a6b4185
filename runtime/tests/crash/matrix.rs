//! The runtime is killed with SIGKILL at every named point of every mutating call.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::calls::{assert_recovers, numbered, points, was_killed, Case, CASES};

static KILLS: AtomicUsize = AtomicUsize::new(0);

fn kill_everywhere(case: &Case) -> usize {
    let points = numbered(&points(case));
    for point in &points {
        let stage = case.stage();
        let label = format!("{} killed at {point}", case.label());
        let output = case.command(&stage).env("HUTCH_FAULT", format!("{point}:kill")).output().expect("a child");
        assert!(was_killed(output.status), "{label}: {:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
        assert_recovers(&stage, &label);
    }
    let total = KILLS.fetch_add(points.len(), Ordering::SeqCst) + points.len();
    println!("{}: killed at {} points ({total} so far)", case.label(), points.len());
    points.len()
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
