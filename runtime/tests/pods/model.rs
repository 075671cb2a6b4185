//! Random walks over pods and containers, compared with a small pure model of the contract's tables.

use std::collections::BTreeMap;

use hutch_runtime::spec::Command;
use hutch_runtime::testing::World;
use hutch_runtime::{DeleteOptions, ErrorKind, Runtime, State, StopOptions};
use proptest::prelude::*;

const PODS: [&str; 2] = ["p", "q"];
const CONTAINERS: [&str; 3] = ["a", "b", "c"];

/// One step of a walk.
#[derive(Debug, Clone, Copy)]
enum Step {
    CreatePod(usize),
    StartPod(usize),
    StopPod(usize, bool),
    DeletePod(usize),
    PausePod(usize),
    ResumePod(usize),
    Create(usize, usize),
    Start(usize, usize),
    Stop(usize, usize, bool),
    Delete(usize, usize),
    Kill(usize, usize, i32),
    Enter(usize, usize),
    List(usize, usize),
    /// The process ends by itself.
    Exit(usize, usize),
    /// The next start of a container is refused by the guest.
    RefuseStart(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (p, c) = (0..PODS.len(), 0..CONTAINERS.len());
    let pc = (p.clone(), c);
    prop_oneof![
        2 => p.clone().prop_map(Step::CreatePod),
        3 => p.clone().prop_map(Step::StartPod),
        1 => (p.clone(), any::<bool>()).prop_map(|(p, force)| Step::StopPod(p, force)),
        1 => p.clone().prop_map(Step::DeletePod),
        1 => p.clone().prop_map(Step::PausePod),
        2 => p.prop_map(Step::ResumePod),
        3 => pc.clone().prop_map(|(p, c)| Step::Create(p, c)),
        3 => pc.clone().prop_map(|(p, c)| Step::Start(p, c)),
        1 => (pc.clone(), any::<bool>()).prop_map(|((p, c), force)| Step::Stop(p, c, force)),
        1 => pc.clone().prop_map(|(p, c)| Step::Delete(p, c)),
        2 => (pc.clone(), prop_oneof![Just(9), Just(15), Just(10)]).prop_map(|((p, c), s)| Step::Kill(p, c, s)),
        1 => pc.clone().prop_map(|(p, c)| Step::Enter(p, c)),
        1 => pc.clone().prop_map(|(p, c)| Step::List(p, c)),
        2 => pc.clone().prop_map(|(p, c)| Step::Exit(p, c)),
        1 => pc.prop_map(|(p, c)| Step::RefuseStart(p, c)),
    ]
}

/// What the contract says a container is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Container {
    state: State,
    before_pause: State,
    /// Its process has ended and nobody has looked yet.
    ended: bool,
}

/// What the contract says a pod is.
#[derive(Debug, Clone, PartialEq)]
struct Pod {
    state: State,
    order: Vec<&'static str>,
    containers: BTreeMap<&'static str, Container>,
}

type Model = BTreeMap<&'static str, Pod>;
type Outcome = Result<(), ErrorKind>;

/// The contract as a function: what the step must answer, and what is then true.
fn expect(model: &mut Model, step: Step) -> Outcome {
    use ErrorKind::{AlreadyExists, InvalidTransition, NoSuchContainer, NoSuchPod, WrongState};
    use State::{Paused, Ready, Running, Stopped};
    let pod_index = match step {
        Step::CreatePod(p) => {
            if model.contains_key(PODS[p]) {
                return Err(AlreadyExists);
            }
            model.insert(PODS[p], Pod { state: Ready, order: Vec::new(), containers: BTreeMap::new() });
            return Ok(());
        }
        Step::StartPod(p) | Step::StopPod(p, _) | Step::DeletePod(p) | Step::PausePod(p) | Step::ResumePod(p) => p,
        Step::Create(p, _) | Step::Start(p, _) | Step::Stop(p, _, _) | Step::Delete(p, _) => p,
        Step::Kill(p, _, _) | Step::Enter(p, _) | Step::List(p, _) | Step::Exit(p, _) | Step::RefuseStart(p, _) => p,
    };
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
                    return Err(ErrorKind::Seam);
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
        Step::Start(_, c)
        | Step::Stop(_, c, _)
        | Step::Delete(_, c)
        | Step::Kill(_, c, _)
        | Step::Enter(_, c)
        | Step::List(_, c)
        | Step::Exit(_, c)
        | Step::RefuseStart(_, c) => {
            let (state, order) = (pod.state, &mut pod.order);
            let Some(container) = pod.containers.get_mut(CONTAINERS[c]) else { return Err(NoSuchContainer) };
            match expect_container(state, container, step) {
                Ok(true) => {
                    order.retain(|id| *id != CONTAINERS[c]);
                    pod.containers.remove(CONTAINERS[c]);
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(kind) => Err(kind),
            }
        }
        Step::CreatePod(_) => unreachable!("handled above"),
    }
}

/// The part about one container; `Ok(true)`: it is deleted.
fn expect_container(pod: State, container: &mut Container, step: Step) -> Result<bool, ErrorKind> {
    use ErrorKind::{Seam, WrongState};
    use State::{Paused, Ready, Running, Stopped};
    match step {
        Step::Start(..) | Step::RefuseStart(..) => {
            if pod != Running || !matches!(container.state, Ready | Stopped) {
                return Err(WrongState);
            }
            let refused = matches!(step, Step::RefuseStart(..)) || container.state == Ready && container.ended;
            *container = Container { state: if refused { Stopped } else { Running }, ended: false, ..*container };
            if refused {
                Err(Seam)
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
        Step::Enter(..) => match (pod, container.state) {
            (Running, Ready | Running) if container.ended => Err(Seam),
            (Running, Ready | Running) => Ok(false),
            _ => Err(WrongState),
        },
        Step::List(..) if pod == Running && container.state == Running => Ok(false),
        Step::List(..) => Err(WrongState),
        Step::Exit(..) => {
            if container.state == Running || container.state == Paused && container.before_pause == Running {
                container.ended = true;
            }
            Ok(false)
        }
        _ => unreachable!("not about a container"),
    }
}

fn perform(world: &World, runtime: &Runtime, step: Step, model: &Model) -> Outcome {
    let command = Command { args: vec!["x".into()], ..Command::default() };
    let result = match step {
        Step::CreatePod(p) => runtime.create_pod(world.pod(PODS[p], &[])).map(drop),
        Step::StartPod(p) => runtime.start_pod(PODS[p]).map(drop),
        Step::StopPod(p, force) => runtime.stop_pod(PODS[p], StopOptions { force }).map(drop),
        Step::DeletePod(p) => runtime.delete_pod(PODS[p], Default::default()).map(drop),
        Step::PausePod(p) => runtime.pause_pod(PODS[p]).map(drop),
        Step::ResumePod(p) => runtime.resume_pod(PODS[p]).map(drop),
        Step::Create(p, c) => runtime.create_container(PODS[p], world.container(CONTAINERS[c])).map(drop),
        Step::Start(p, c) => runtime.start_container(PODS[p], CONTAINERS[c]).map(drop),
        Step::RefuseStart(p, c) => {
            world.fail("agent.start-container", hutch_runtime::testing::Failing::Refuses);
            let result = runtime.start_container(PODS[p], CONTAINERS[c]).map(drop);
            world.heal();
            result
        }
        Step::Stop(p, c, force) => runtime.stop_container(PODS[p], CONTAINERS[c], StopOptions { force }).map(drop),
        Step::Delete(p, c) => runtime.delete_container(PODS[p], CONTAINERS[c]).map(drop),
        Step::Kill(p, c, signal) => runtime.kill_container(PODS[p], CONTAINERS[c], signal, true),
        Step::Enter(p, c) => runtime.enter_container(PODS[p], CONTAINERS[c], &command, Default::default()).map(drop),
        Step::List(p, c) => runtime.process_list(PODS[p], CONTAINERS[c], &Default::default()).map(drop),
        Step::Exit(p, c) => {
            let Some(pod) = model.get(PODS[p]) else { return Err(ErrorKind::NoSuchPod) };
            let Some(container) = pod.containers.get(CONTAINERS[c]) else { return Err(ErrorKind::NoSuchContainer) };
            if container.ended {
                world.guest(PODS[p], |guest| guest.exit(CONTAINERS[c], 0));
            }
            return Ok(());
        }
    };
    result.map_err(|error| error.kind())
}

/// Looking makes it so: containers whose process has ended are stopped (P-116).
fn look(model: &mut Model) {
    for container in model.values_mut().flat_map(|pod| pod.containers.values_mut()) {
        if container.ended {
            *container = Container { state: State::Stopped, ended: false, ..*container };
        }
    }
}

type Shown = Vec<(String, State, Vec<(String, State)>)>;

fn shown(model: &Model) -> Shown {
    let containers = |pod: &Pod| pod.order.iter().map(|id| (id.to_string(), pod.containers[id].state)).collect();
    model.iter().map(|(id, pod)| (id.to_string(), pod.state, containers(pod))).collect()
}

fn listed(runtime: &Runtime) -> Shown {
    let list = runtime.list_pods().expect("a list");
    let pod = |status: hutch_runtime::spec::PodStatus| {
        let containers = status.containers.into_iter().map(|c| (c.id, c.state.expect("a state"))).collect();
        (status.id, status.state.expect("a state"), containers)
    };
    list.into_iter().map(pod).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// P-010 to P-016 and the matrices of §3, in any order of calls.
    #[test]
    fn p_013_random_walks_agree_with_the_tables_of_the_contract(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.5)), 1..60)
    ) {
        let world = World::new();
        let mut options = world.options();
        options.stop_timeout = std::time::Duration::from_millis(1);
        let runtime = Runtime::new(world.store(), world.seams(), options);
        let mut model = Model::new();
        let mut done = Vec::new();
        for (step, with_look) in steps {
            done.push(step);
            let expected = expect(&mut model, step);
            let result = perform(&world, &runtime, step, &model);
            prop_assert_eq!(result, expected, "after {:?}", done);
            if with_look {
                look(&mut model);
                prop_assert_eq!(listed(&runtime), shown(&model), "after {:?}", done);
            }
        }
        for id in model.keys() {
            runtime.delete_pod(id, DeleteOptions { force: true }).expect("a deletion");
        }
        prop_assert_eq!(world.leaks(), Vec::<String>::new());
    }
}
