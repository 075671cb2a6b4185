//! The contract's tables as a pure function: what a call must answer, and what is then true.

use std::collections::BTreeMap;

use hutch_runtime::error::ErrorKind;
use hutch_runtime::state::State;

/// Ids of pods in walks.
pub const PODS: [&str; 2] = ["p", "q"];
/// Ids of containers in walks.
pub const CONTAINERS: [&str; 3] = ["a", "b", "c"];

/// One step of a walk; numbers are indices of [`PODS`] and [`CONTAINERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// CreatePod, without containers.
    CreatePod(usize),
    /// StartPod.
    StartPod(usize),
    /// StopPod, perhaps by force.
    StopPod(usize, bool),
    /// DeletePod.
    DeletePod(usize),
    /// PausePod.
    PausePod(usize),
    /// ResumePod.
    ResumePod(usize),
    /// CreateContainer.
    Create(usize, usize),
    /// StartContainer.
    Start(usize, usize),
    /// StopContainer, perhaps by force.
    Stop(usize, usize, bool),
    /// DeleteContainer.
    Delete(usize, usize),
    /// KillContainer with a signal, all processes.
    Kill(usize, usize, i32),
    /// ExecContainer.
    Exec(usize, usize),
    /// ListProcesses.
    List(usize, usize),
    /// The process ends by itself.
    Exit(usize, usize),
    /// StartContainer, which the guest refuses.
    RefuseStart(usize, usize),
    /// ListPod: what it shows is compared, and makes reconciling stops.
    Look,
}

impl Step {
    /// Every step that there is for these numbers of pods and containers.
    pub fn all(pods: usize, containers: usize) -> Vec<Step> {
        let mut steps = vec![Step::Look];
        for p in 0..pods {
            steps.extend([Step::CreatePod(p), Step::StartPod(p), Step::StopPod(p, false), Step::StopPod(p, true)]);
            steps.extend([Step::DeletePod(p), Step::PausePod(p), Step::ResumePod(p)]);
            for c in 0..containers {
                steps.extend([Step::Create(p, c), Step::Start(p, c), Step::Stop(p, c, false), Step::Stop(p, c, true)]);
                steps.extend([Step::Delete(p, c), Step::Kill(p, c, 9), Step::Kill(p, c, 15), Step::Kill(p, c, 10)]);
                steps.extend([Step::Exec(p, c), Step::List(p, c), Step::Exit(p, c), Step::RefuseStart(p, c)]);
            }
        }
        steps
    }

    /// The verb, with its form.
    pub(super) fn name(self) -> String {
        let name = match self {
            Step::CreatePod(_) => "CreatePod",
            Step::StartPod(_) => "StartPod",
            Step::StopPod(_, false) => "StopPod",
            Step::StopPod(_, true) => "StopPod by force",
            Step::DeletePod(_) => "DeletePod",
            Step::PausePod(_) => "PausePod",
            Step::ResumePod(_) => "ResumePod",
            Step::Create(..) => "CreateContainer",
            Step::Start(..) => "StartContainer",
            Step::Stop(_, _, false) => "StopContainer",
            Step::Stop(_, _, true) => "StopContainer by force",
            Step::Delete(..) => "DeleteContainer",
            Step::Kill(_, _, signal) => return format!("KillContainer with {signal}"),
            Step::Exec(..) => "ExecContainer",
            Step::List(..) => "ListProcesses",
            Step::Exit(..) => "the process ends",
            Step::RefuseStart(..) => "a refused StartContainer",
            Step::Look => "ListPod",
        };
        name.to_owned()
    }

    /// The pod it is about; `None` for a list of all.
    pub(super) fn pod(self) -> Option<usize> {
        match self {
            Step::Look => None,
            Step::CreatePod(p) | Step::StartPod(p) | Step::StopPod(p, _) | Step::DeletePod(p) => Some(p),
            Step::PausePod(p) | Step::ResumePod(p) | Step::Create(p, _) | Step::Start(p, _) => Some(p),
            Step::Stop(p, _, _) | Step::Delete(p, _) | Step::Kill(p, _, _) | Step::Exec(p, _) => Some(p),
            Step::List(p, _) | Step::Exit(p, _) | Step::RefuseStart(p, _) => Some(p),
        }
    }

    /// The container it is about.
    pub(super) fn container(self) -> Option<usize> {
        match self {
            Step::Create(_, c) | Step::Start(_, c) | Step::Stop(_, c, _) | Step::Delete(_, c) => Some(c),
            Step::Kill(_, c, _) | Step::Exec(_, c) | Step::List(_, c) => Some(c),
            Step::Exit(_, c) | Step::RefuseStart(_, c) => Some(c),
            _ => None,
        }
    }
}

/// A container as the contract has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) state: State,
    before_pause: State,
    /// Its process has ended and no call has noticed yet.
    pub(super) ended: bool,
}

/// A pod as the contract has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) state: State,
    order: Vec<&'static str>,
    pub(super) containers: BTreeMap<&'static str, Container>,
}

/// All pods as the contract has them.
pub(super) type Model = BTreeMap<&'static str, Pod>;
/// The answer of a call, as far as the contract defines it.
pub type Outcome = Result<(), ErrorKind>;

/// The contract as a function: what the step must answer, and what is then true.
pub(super) fn expect(model: &mut Model, step: Step) -> Outcome {
    use ErrorKind::{AlreadyExists, InvalidTransition, NoSuchContainer, NoSuchPod, WrongState};
    use State::{Paused, Ready, Running, Stopped};
    let Some(pod_index) = step.pod() else {
        look(model);
        return Ok(());
    };
    if let Step::CreatePod(p) = step {
        if model.contains_key(PODS[p]) {
            return Err(AlreadyExists);
        }
        model.insert(PODS[p], Pod { state: Ready, order: Vec::new(), containers: BTreeMap::new() });
        return Ok(());
    }
    let Some(pod) = model.get_mut(PODS[pod_index]) else { return Err(NoSuchPod) };
    match step {
        Step::StartPod(_) => {
            match pod.state {
                Running => return Err(InvalidTransition),
                Paused => return Err(WrongState),
                Ready | Stopped => {}
            }
            // A ready container whose process was killed: the guest refuses to start it, and the start ends there.
            pod.state = Running;
            for id in pod.order.clone() {
                let container = pod.containers.get_mut(id).unwrap();
                if container.state == Ready && container.ended {
                    *container = Container { state: Stopped, ended: false, ..*container };
                    return Err(ErrorKind::Backend);
                }
                *container = Container { state: Running, ended: false, ..*container };
            }
            Ok(())
        }
        Step::StopPod(..) => {
            pod.state = Stopped;
            for container in pod.containers.values_mut() {
                *container = Container { state: Stopped, ended: false, ..*container };
            }
            Ok(())
        }
        Step::DeletePod(_) if pod.state == Running => Err(WrongState),
        Step::DeletePod(p) => {
            model.remove(PODS[p]);
            Ok(())
        }
        Step::PausePod(_) if pod.state != Running => Err(WrongState),
        Step::PausePod(_) => {
            pod.state = Paused;
            for container in pod.containers.values_mut().filter(|c| c.state != Stopped) {
                *container = Container { before_pause: container.state, state: Paused, ..*container };
            }
            Ok(())
        }
        Step::ResumePod(_) if pod.state != Paused => Err(WrongState),
        Step::ResumePod(_) => {
            pod.state = Running;
            for container in pod.containers.values_mut().filter(|c| c.state == Paused) {
                container.state = container.before_pause;
            }
            Ok(())
        }
        Step::Create(..) if !matches!(pod.state, Ready | Running) => Err(WrongState),
        Step::Create(_, c) if pod.containers.contains_key(CONTAINERS[c]) => Err(AlreadyExists),
        Step::Create(_, c) => {
            pod.order.push(CONTAINERS[c]);
            pod.containers.insert(CONTAINERS[c], Container { state: Ready, before_pause: Ready, ended: false });
            Ok(())
        }
        _ => {
            let Some(c) = step.container() else { return Ok(()) };
            let (state, order) = (pod.state, &mut pod.order);
            let Some(container) = pod.containers.get_mut(CONTAINERS[c]) else { return Err(NoSuchContainer) };
            if expect_container(state, container, step)? {
                order.retain(|id| *id != CONTAINERS[c]);
                pod.containers.remove(CONTAINERS[c]);
            }
            Ok(())
        }
    }
}

/// The part about one container; `Ok(true)`: it is deleted.
fn expect_container(pod: State, container: &mut Container, step: Step) -> Result<bool, ErrorKind> {
    use ErrorKind::{Backend, WrongState};
    use State::{Ready, Running, Stopped};
    match step {
        Step::Start(..) | Step::RefuseStart(..) => {
            if pod != Running || !matches!(container.state, Ready | Stopped) {
                return Err(WrongState);
            }
            let refused = matches!(step, Step::RefuseStart(..)) || container.state == Ready && container.ended;
            *container = Container { state: if refused { Stopped } else { Running }, ended: false, ..*container };
            if refused {
                Err(Backend)
            } else {
                Ok(false)
            }
        }
        Step::Stop(..) => {
            *container = Container { state: Stopped, ended: false, ..*container };
            Ok(false)
        }
        Step::Delete(..) if matches!(container.state, Ready | Stopped) => Ok(true),
        Step::Delete(..) => Err(WrongState),
        Step::Kill(_, _, signal) => {
            if container.state == Stopped && signal != 10 {
                return Ok(false);
            }
            if signal != 9 && (!matches!(pod, Ready | Running) || !matches!(container.state, Ready | Running)) {
                return Err(WrongState);
            }
            container.ended = true;
            Ok(false)
        }
        Step::Exec(..) => match (pod, container.state) {
            (Running, Ready | Running) if container.ended => Err(Backend),
            (Running, Ready | Running) => Ok(false),
            _ => Err(WrongState),
        },
        Step::List(..) if pod == Running && container.state == Running => Ok(false),
        Step::List(..) => Err(WrongState),
        Step::Exit(..) => {
            // Held vCPUs end nothing.
            if container.state == Running {
                container.ended = true;
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// Looking makes it so: containers whose process has ended are stopped (P-116).
fn look(model: &mut Model) {
    for container in model.values_mut().flat_map(|pod| pod.containers.values_mut()) {
        if container.ended {
            *container = Container { state: State::Stopped, ended: false, ..*container };
        }
    }
}

/// Pods and containers with their states, in order.
pub(super) type Shown = Vec<(String, State, Vec<(String, State)>)>;

/// The content that a list must show.
pub(super) fn shown(model: &Model) -> Shown {
    let containers = |pod: &Pod| pod.order.iter().map(|id| (id.to_string(), pod.containers[id].state)).collect();
    model.iter().map(|(id, pod)| (id.to_string(), pod.state, containers(pod))).collect()
}
