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
    let steps = Step::all(1, 2);
    let (mut model, mut walk, mut seen) = (Model::new(), Vec::new(), BTreeSet::new());
    while let Some(path) = path_to_new_cell(&model, &steps, &seen) {
        for step in path {
            seen.insert(cell(&model, step));
            // The caller of the walk checks the answer.
            let _ = expect(&mut model, step);
            walk.push(step);
        }
    }
    (walk, seen)
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
