//! A walk through every cell of the matrices.

use std::collections::{BTreeSet, VecDeque};

use super::model::{expect, Model, Step, CONTAINERS, PODS};

/// Limit of the search for a cell. One pod with two containers has fewer situations.
const SITUATIONS: usize = 10_000;

/// Name of the cell that a step in this situation belongs to.
pub(super) fn cell(model: &Model, step: Step) -> String {
    let verb = step.name();
    let Some(index) = step.pod() else { return verb };
    let Some(pod) = model.get(PODS[index]) else { return format!("{verb} without pod") };
    // The cell of a pod's verb depends on the pod's first container.
    let container = match pod.containers.get(CONTAINERS[step.container().unwrap_or(0)]) {
        None => "no container".to_owned(),
        Some(container) if container.ended => format!("a {} container that has ended", container.state),
        Some(container) => format!("a {} container", container.state),
    };
    format!("{verb} in a {} pod with {container}", pod.state)
}

/// A walk with one pod of up to two containers through every cell that can be reached, and the names of the cells.
pub fn covering_walk() -> (Vec<Step>, BTreeSet<String>) {
    let (mut walks, cells) = covering_walks(1);
    (walks.pop().unwrap_or_default(), cells)
}

/// Walks like that of [`covering_walk`], which come through every cell between them and take about the same time. They can be
/// performed side by side.
pub fn covering_walks(number: usize) -> (Vec<Vec<Step>>, BTreeSet<String>) {
    let steps = Step::all(1, 2);
    let mut walks: Vec<_> = (0..number).map(|_| (0, Model::new(), Vec::new())).collect();
    let mut seen = BTreeSet::new();
    // The shortest walk goes on.
    while let Some((cost, model, walk)) = walks.iter_mut().min_by_key(|(cost, ..)| *cost) {
        let Some(path) = path_to_new_cell(model, &steps, &seen) else { break };
        for step in path {
            seen.insert(cell(model, step));
            // The caller of the walk checks the answer.
            let _ = expect(model, step);
            *cost += cost_of(step);
            walk.push(step);
        }
    }
    (walks.into_iter().map(|(_, _, walk)| walk).collect(), seen)
}

/// Rough time of a step with a real machine, in tenths of a second.
fn cost_of(step: Step) -> u32 {
    match step {
        Step::CreatePod(_) | Step::StartPod(_) => 20,
        Step::RefuseStart(..) => 25,
        _ => 3,
    }
}

/// The shortest way to a step whose cell is new: breadth first over the situations.
fn path_to_new_cell(from: &Model, steps: &[Step], seen: &BTreeSet<String>) -> Option<Vec<Step>> {
    let mut known = vec![from.clone()];
    let mut queue = VecDeque::from([(from.clone(), Vec::new())]);
    while let Some((model, path)) = queue.pop_front() {
        for &step in steps {
            let mut longer = path.clone();
            longer.push(step);
            if !seen.contains(&cell(&model, step)) {
                return Some(longer);
            }
            let mut next = model.clone();
            let _ = expect(&mut next, step);
            if known.len() < SITUATIONS && !known.contains(&next) {
                known.push(next.clone());
                queue.push_back((next, longer));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_side_by_side_cover_what_one_does_and_share_the_time() {
        let (walk, cells) = covering_walk();
        let (walks, both) = covering_walks(2);
        assert_eq!(both, cells);
        let cost = |walk: &[Step]| walk.iter().map(|step| cost_of(*step)).sum::<u32>();
        let most = walks.iter().map(|walk| cost(walk)).max().unwrap_or_default();
        assert!(most * 3 < cost(&walk) * 2, "{most} of {}", cost(&walk));
    }
}
