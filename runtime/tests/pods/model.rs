//! The contract's tables on fakes: every cell, and random walks. `tests/e2e` walks the same with real machines.

use hutch_runtime::spec::{Command, ContainerConfig, PodConfig};
use hutch_runtime::{Result, Runtime};
use hutch_runtime_fakes::table::{covering_walk, Step, Subject, Walk, CONTAINERS, PODS};
use hutch_runtime_fakes::{Failing, FakeHost};
use proptest::prelude::*;

struct Fakes {
    host: FakeHost,
    runtime: Runtime,
}

impl Fakes {
    fn new() -> Self {
        let host = FakeHost::new();
        let mut options = host.options();
        options.stop_timeout = std::time::Duration::from_millis(1);
        let runtime = Runtime::new(host.store(), host.backends(), options);
        Self { host, runtime }
    }

    fn finish(&self, walk: Walk) {
        walk.finish(self).expect("deletions");
        assert_eq!(self.host.leaks(), Vec::<String>::new());
    }
}

impl Subject for Fakes {
    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn pod(&self, id: &str) -> PodConfig {
        self.host.pod(id, &[])
    }

    fn container(&self, id: &str) -> ContainerConfig {
        self.host.container(id)
    }

    fn command(&self) -> Command {
        Command { args: vec!["x".into()], ..Command::default() }
    }

    fn started(&self, _: &str, _: &str) {}

    fn end_process(&self, pod: &str, container: &str) {
        self.host.guest(pod, |guest| guest.exit(container, 0));
    }

    fn while_refusing(&self, _: &str, _: &str, start: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.host.fail("agent.start-container", Failing::Refuses);
        let result = start();
        self.host.heal();
        result
    }

    fn settle(&self, _: &str, _: &str) -> std::result::Result<(), String> {
        Ok(())
    }
}

#[test]
fn p_013_every_cell_of_the_matrices_is_as_the_contract_says() {
    let (steps, cells) = covering_walk();
    // Both matrices of the contract have 76 cells; processes that ended unseen and what does not exist come on top.
    assert!(cells.len() > 150, "{} cells", cells.len());
    println!("{} cells, {} steps", cells.len(), steps.len());
    let (fakes, mut walk) = (Fakes::new(), Walk::default());
    for step in steps {
        walk.step(&fakes, step).unwrap_or_else(|problem| panic!("{problem}"));
    }
    fakes.finish(walk);
}

/// Those that lead further more often than those that end something.
fn step() -> impl Strategy<Value = Step> {
    let weighted = Step::all(PODS.len(), CONTAINERS.len()).into_iter().flat_map(|step| {
        let weight = match step {
            Step::Look => 40,
            Step::CreatePod(_) | Step::ResumePod(_) => 6,
            Step::StartPod(_) => 9,
            Step::Create(..) | Step::Start(..) => 3,
            Step::StopPod(..) | Step::DeletePod(_) | Step::PausePod(_) => 2,
            _ => 1,
        };
        std::iter::repeat_n(step, weight)
    });
    prop::sample::select(weighted.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// P-010 to P-016 and the matrices of §3 of the pod contract, in any order of calls.
    #[test]
    fn p_013_random_walks_agree_with_the_tables_of_the_contract(steps in prop::collection::vec(step(), 1..90)) {
        let (fakes, mut walk) = (Fakes::new(), Walk::default());
        for step in steps {
            if let Err(problem) = walk.step(&fakes, step) {
                prop_assert!(false, "{}", problem);
            }
        }
        fakes.finish(walk);
    }
}
