//! The contract's tables as one set of cases, for fakes and real machines alike.
//!
//! [`covering_walk`] (in parts: [`covering_walks`]) is a walk of calls that comes through every cell of the two
//! matrices of §3 of the pod contract (each verb in each state of pod and container, with processes that have ended unseen, and with what does not exist),
//! as far as a walk can get there. [`Step::all`] is what random walks are made of. [`Walk`] performs steps on a
//! [`Subject`] and compares each answer, and whatever a list shows, with the contract.

mod cover;
mod model;

use cover::cell;
pub use cover::{covering_walk, covering_walks};
pub use model::{Outcome, Step, CONTAINERS, PODS};

use model::{expect, shown, Model, Shown};

use hutch_runtime::error::{Error, Result};
use hutch_runtime::pod::{DeleteOptions, StopOptions};
use hutch_runtime::spec::{Command, ContainerConfig, PodConfig};
use hutch_runtime::state::State;
use hutch_runtime::Runtime;

/// The runtime and guests that the cases are performed on.
pub trait Subject {
    /// The runtime.
    fn runtime(&self) -> &Runtime;
    /// Configuration of a pod without containers.
    fn pod(&self, id: &str) -> PodConfig;
    /// Configuration of a container whose process runs until it gets SIGKILL, SIGTERM or SIGUSR1.
    fn container(&self, id: &str) -> ContainerConfig;
    /// A command that runs for as long as its container.
    fn command(&self) -> Command;
    /// Waits until the process of a container that was just started is ready for signals.
    fn started(&self, pod: &str, container: &str);
    /// Has the process of a running container end by itself, with code 0.
    fn end_process(&self, pod: &str, container: &str);
    /// Performs `start`, which the guest must refuse.
    fn while_refusing(&self, pod: &str, container: &str, start: &mut dyn FnMut() -> Result<()>) -> Result<()>;
    /// Waits until the end of a container's process can be seen; what is wrong if that takes too long.
    fn settle(&self, pod: &str, container: &str) -> std::result::Result<(), String>;
}

/// A walk: steps done so far and what must be true after them.
#[derive(Default)]
pub struct Walk {
    model: Model,
    done: Vec<Step>,
}

impl Walk {
    /// Performs a step.
    ///
    /// # Errors
    /// If the answer, or what is shown, differs from what the contract says; the text has all steps so far.
    pub fn step(&mut self, subject: &dyn Subject, step: Step) -> std::result::Result<(), String> {
        let cell = cell(&self.model, step);
        let (unseen, ran) = (self.unseen_ends(), self.running());
        self.done.push(step);
        let expected = expect(&mut self.model, step);
        let mut new_ends = self.unseen_ends();
        new_ends.retain(|end| !unseen.contains(end));
        if let Step::Exit(..) = step {
            for (pod, container) in new_ends {
                subject.end_process(pod, container);
                subject.settle(pod, container).map_err(|problem| format!("{cell}: {problem}"))?;
            }
            return Ok(());
        }
        let (answer, list) = perform(subject, step);
        let kind = answer.as_ref().copied().map_err(Error::kind);
        if kind != expected {
            let answer = answer.map_err(|error| error.chain().to_string());
            return Err(format!("{cell}: {answer:?}, not {expected:?}; after {:?}", self.done));
        }
        let must_show = shown(&self.model);
        if let Some(list) = list.filter(|list| *list != must_show) {
            return Err(format!("{cell}: shown is {list:?}, not {must_show:?}; after {:?}", self.done));
        }
        if let Step::Start(..) | Step::StartPod(_) = step {
            for (pod, container) in self.running().into_iter().filter(|container| !ran.contains(container)) {
                subject.started(pod, container);
            }
        }
        for (pod, container) in new_ends {
            let settled = subject.settle(pod, container);
            settled.map_err(|problem| format!("{cell}: {problem}; after {:?}", self.done))?;
        }
        Ok(())
    }

    /// Deletes all pods.
    ///
    /// # Errors
    /// Of a deletion.
    pub fn finish(self, subject: &dyn Subject) -> Result<()> {
        for id in self.model.keys() {
            subject.runtime().delete_pod(id, DeleteOptions { force: true })?;
        }
        Ok(())
    }

    /// Containers whose process has ended and that no call has noticed yet.
    fn unseen_ends(&self) -> Vec<(&'static str, &'static str)> {
        self.containers(|container| container.ended)
    }

    fn running(&self) -> Vec<(&'static str, &'static str)> {
        self.containers(|container| container.state == State::Running)
    }

    fn containers(&self, wanted: impl Fn(&model::Container) -> bool) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        for (id, pod) in &self.model {
            let those = pod.containers.iter().filter(|(_, container)| wanted(container));
            found.extend(those.map(|(name, _)| (*id, *name)));
        }
        found
    }
}

fn perform(subject: &dyn Subject, step: Step) -> (Result<()>, Option<Shown>) {
    let runtime = subject.runtime();
    let result = match step {
        Step::Look => match listed(runtime) {
            Ok(list) => return (Ok(()), Some(list)),
            Err(error) => Err(error),
        },
        Step::CreatePod(p) => runtime.create_pod(subject.pod(PODS[p])).map(drop),
        Step::StartPod(p) => runtime.start_pod(PODS[p]).map(drop),
        Step::StopPod(p, force) => {
            runtime.stop_pod(PODS[p], StopOptions { force, ..StopOptions::without_signal() }).map(drop)
        }
        Step::DeletePod(p) => runtime.delete_pod(PODS[p], DeleteOptions::default()).map(drop),
        Step::PausePod(p) => runtime.pause_pod(PODS[p]).map(drop),
        Step::ResumePod(p) => runtime.resume_pod(PODS[p]).map(drop),
        Step::Create(p, c) => runtime.create_container(PODS[p], subject.container(CONTAINERS[c])).map(drop),
        Step::Start(p, c) => runtime.start_container(PODS[p], CONTAINERS[c]).map(drop),
        Step::RefuseStart(p, c) => {
            let mut start = || runtime.start_container(PODS[p], CONTAINERS[c]).map(drop);
            subject.while_refusing(PODS[p], CONTAINERS[c], &mut start)
        }
        Step::Stop(p, c, force) => runtime
            .stop_container(PODS[p], CONTAINERS[c], StopOptions { force, ..StopOptions::without_signal() })
            .map(drop),
        Step::Delete(p, c) => runtime.delete_container(PODS[p], CONTAINERS[c]).map(drop),
        Step::Kill(p, c, signal) => runtime.kill_container(PODS[p], CONTAINERS[c], signal, true),
        Step::Exec(p, c) => {
            let started = runtime.exec_container(PODS[p], CONTAINERS[c], &subject.command(), Default::default());
            started.map(drop)
        }
        Step::List(p, c) => runtime.list_processes(PODS[p], CONTAINERS[c], &Default::default()).map(drop),
        // The process does that, not the runtime.
        Step::Exit(..) => Ok(()),
    };
    (result, None)
}

fn listed(runtime: &Runtime) -> Result<Shown> {
    let state = |state: Option<State>| state.ok_or(Error::NeedState);
    runtime
        .list_pods()?
        .into_iter()
        .map(|pod| {
            let containers = pod.containers.into_iter().map(|c| Ok((c.id, state(c.state)?))).collect::<Result<_>>()?;
            Ok((pod.id, state(pod.state)?, containers))
        })
        .collect()
}
