//! `cargo xtask perf --runtime`: the runtime's own share of each call's cost, with backends that do nothing.
//!
//! Times are medians with their quartiles, beside a peer in the same run. For lists and status, the peer reads the same files.
//! For calls that change state, it writes one record durably (temporary file, fsync, rename), which is most of such a call.
//! The counts of read and write calls do not depend on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use hutch_runtime::backend::Backends;
use hutch_runtime::spec::{
    AgentConfig, AgentKind, Command, ContainerConfig, HypervisorConfig, HypervisorKind, PodConfig, ShimConfig, ShimKind,
};
use hutch_runtime::{Options, Runtime, StopOptions, Store};

use hutch_perf::measure::{self, measure, Row};

/// Recorded pods in the list.
const PODS: usize = 1000;
/// Measured calls of each kind. A tenth of this number comes before, as warm-up.
const ROUNDS: usize = 200;
/// Measured calls of the list.
const LISTS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In memory where possible: this does not measure the disk.
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() })?;
    let bench = Bench::new(dir.path())?;
    println!("{}", Row::header());
    for row in [bench.lists()?, bench.lives()?].concat() {
        println!("{row}");
    }
    Ok(())
}

struct Bench {
    dir: PathBuf,
}

impl Bench {
    fn new(dir: &Path) -> std::io::Result<Self> {
        for name in ["kernel", "initrd"] {
            fs::write(dir.join(name), name)?;
        }
        fs::create_dir(dir.join("rootfs"))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn runtime(&self, name: &str) -> Runtime {
        let store = Store::new(self.dir.join(name).join("config"), self.dir.join(name).join("run"));
        Runtime::new(store, Backends::noop(), Options::default())
    }

    fn pod(&self, id: &str) -> PodConfig {
        let container = ContainerConfig {
            id: format!("{id}-c"),
            rootfs: self.dir.join("rootfs"),
            command: Command { args: vec!["/bin/true".into()], ..Command::default() },
            ..ContainerConfig::default()
        };
        PodConfig {
            id: id.to_owned(),
            hypervisor: HypervisorConfig {
                kind: HypervisorKind::None,
                kernel: self.dir.join("kernel"),
                initrd: Some(self.dir.join("initrd")),
                ..HypervisorConfig::default()
            },
            agent: AgentConfig { kind: AgentKind::None, ..AgentConfig::default() },
            shim: ShimConfig { kind: ShimKind::None },
            containers: vec![container],
            ..PodConfig::default()
        }
    }

    /// Reading calls on a thousand recorded pods.
    fn lists(&self) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
        let runtime = self.runtime("many");
        for number in 0..PODS {
            runtime.create_pod(self.pod(&format!("p{number}")))?;
        }
        let dir = self.dir.join("many");
        assert_eq!(runtime.list_pods()?.len(), PODS);
        let list = measure("list of 1000 pods", LISTS, || runtime.list_pods(), |_| read_all(&dir))?;
        let one = [dir.join("config/p500"), dir.join("run/p500")];
        let read_one = |_| one.iter().try_for_each(|dir| read_all(dir));
        let status = measure("status of one of them", ROUNDS, || runtime.status_pod("p500"), read_one)?;
        Ok(vec![list, status])
    }

    /// The calls of a pod's life, each timed over many lives.
    fn lives(&self) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
        let runtime = self.runtime("one");
        let exec = Command { args: vec!["/bin/true".into()], ..Command::default() };
        let record = |round: usize| write_durably(&self.dir.join("peer"), round);
        let create = || -> hutch_runtime::Result<_> {
            runtime.create_pod(self.pod("p"))?;
            runtime.delete_pod("p", Default::default())
        };
        let create = measure("create and delete a pod", ROUNDS, create, record)?;
        runtime.run_pod(self.pod("p"))?;
        let enter = || runtime.exec_container("p", "p-c", &exec, Default::default());
        let enter = measure("exec", ROUNDS, enter, record)?;
        let restart = || -> hutch_runtime::Result<_> {
            runtime.stop_container("p", "p-c", StopOptions::forced())?;
            runtime.start_container("p", "p-c")
        };
        let restart = measure("stop and start a container", ROUNDS, restart, record)?;
        runtime.stop_pod("p", StopOptions::forced())?;
        runtime.delete_pod("p", Default::default())?;
        Ok(vec![create, enter, restart])
    }
}

/// Reads every file below `dir`.
fn read_all(dir: &Path) -> measure::Outcome {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_all(&entry.path())?;
        } else {
            std::hint::black_box(fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Writes one small record as the store does.
fn write_durably(dir: &Path, round: usize) -> measure::Outcome {
    fs::create_dir_all(dir)?;
    let (new, path) = (dir.join(".record"), dir.join("record"));
    let mut file = fs::File::create(&new)?;
    std::io::Write::write_all(&mut file, format!("{{\"round\":{round}}}").as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(new, path)?)
}
