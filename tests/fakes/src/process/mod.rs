//! The same guest behind real processes: VMM processes with control sockets, shims, and ledgers of namespaces and
//! mounts in a directory. Nothing needs KVM or rights. For tests that kill processes and for runtimes in several
//! processes.
//!
//! A test binary that uses this starts itself again: it needs a test that calls [`play_role`], and a [`Stage`] that
//! knows the name of that test.

mod ledger;
mod machine;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use hutch_runtime::backend::{AgentCapabilities, BackendError, BackendResult, Backends};
use hutch_runtime::shim::{shim_verb, ProcessShims};
use hutch_runtime::store::{Store, VmRecord};
use hutch_runtime::vm_host::{vmm_verb_with, ControlClient, ProcessVmHost, ReExec, VsockAgents};
use hutch_runtime::Options;
use hutch_runtime::Runtime;

pub use ledger::Ledger;
pub use machine::FakeMachine;

/// Environment variable that names the role of a process.
const ROLE: &str = "HUTCH_TEST_ROLE";
/// Environment variable by which the processes of a stage are found.
const STAGE: &str = "HUTCH_TEST_STAGE";
/// Port of the fake guest on which tests control it.
const TEST_PORT: u32 = 9;

/// Plays the role this process was started for; returns if it was started for none. For a test of its own:
///
/// ```
/// // #[test]
/// fn role() {
///     hutch_runtime_fakes::process::play_role(|_| panic!("no such role"));
/// }
/// # role();
/// ```
///
/// `other` plays roles that only the test binary knows.
pub fn play_role(other: impl FnOnce(&str) -> u8) {
    let Ok(role) = std::env::var(ROLE) else { return };
    let status = match role.as_str() {
        "vmm" => match vmm_verb_with(FakeMachine::launch) {
            Ok(end) => {
                println!("{}", end.reason);
                0
            }
            Err(error) => {
                eprintln!("{error}");
                1
            }
        },
        "shim" => shim_verb(),
        role => other(role),
    };
    std::process::exit(status.into());
}

/// A directory, the store in it, and how to start processes that play a role.
pub struct Stage {
    dir: PathBuf,
    /// Removed when the stage is; `None` in processes that only play a role on it.
    owned: Option<TempDir>,
    role_test: String,
}

impl Stage {
    /// A new stage. `role_test` is the full name of the test that calls [`play_role`].
    ///
    /// # Panics
    /// If there is no temporary directory.
    pub fn new(role_test: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let owned = tempfile::Builder::new().prefix("hutch-stage").tempdir_in(place).expect("a temporary directory");
        let dir = owned.path().to_owned();
        for name in ["kernel", "initrd"] {
            std::fs::write(dir.join(name), name).expect("a file in the temporary directory");
        }
        std::fs::create_dir(dir.join("rootfs")).expect("a directory in the temporary directory");
        std::fs::write(dir.join("disk"), "a disk, for the fakes").expect("a file in the temporary directory");
        Self { dir, owned: Some(owned), role_test: role_test.into() }
    }

    /// The stage that another process has made.
    pub fn at(dir: &Path, role_test: &str) -> Self {
        Self { dir: dir.to_owned(), owned: None, role_test: role_test.into() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How to start this program again for a role.
    pub fn reexec(&self, role: &str) -> ReExec {
        let args = [self.role_test.as_str(), "--exact", "--nocapture", "--test-threads=1", "--quiet"];
        ReExec {
            program: "/proc/self/exe".into(),
            args: args.iter().map(Into::into).collect(),
            env: vec![(ROLE.into(), role.into()), (STAGE.into(), self.dir.clone().into())],
        }
    }

    /// A command that starts this program again for a role.
    pub fn command(&self, role: &str) -> std::process::Command {
        let reexec = self.reexec(role);
        let mut command = std::process::Command::new(&reexec.program);
        command.args(&reexec.args).envs(reexec.env);
        command
    }

    /// The backends.
    pub fn backends(&self) -> Backends {
        self.backends_of(true)
    }

    /// A runtime that leaves it to the caller to collect shims that have ended.
    pub fn runtime_that_collects_nothing(&self) -> Runtime {
        Runtime::new(self.store(), self.backends_of(false), self.options())
    }

    fn backends_of(&self, reap: bool) -> Backends {
        let vm = ProcessVmHost { reap: true, ..ProcessVmHost::new(self.reexec("vmm")) };
        let capabilities = AgentCapabilities { block_devices: true, ..AgentCapabilities::default() };
        let shims = ProcessShims { reap, namespaces: false, ..ProcessShims::new(self.reexec("shim")) };
        let ledger = Arc::new(Ledger::new(&self.dir.join("ledger")));
        Backends {
            vm: Arc::new(vm),
            agent: Arc::new(VsockAgents { capabilities }),
            shims: Arc::new(shims),
            network: ledger.clone(),
            mounts: ledger.clone(),
            cgroups: ledger,
        }
    }

    /// The store.
    pub fn store(&self) -> Store {
        Store::new(self.dir.join("config"), self.dir.join("run"))
    }

    /// Bounds that suit tests.
    pub fn options(&self) -> Options {
        Options {
            lock_timeout: Duration::from_secs(60),
            list_lock_timeout: Duration::from_millis(100),
            boot_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_millis(100),
            power_off_timeout: Duration::from_millis(500),
            agent_timeout: Duration::from_millis(
                std::env::var("HUTCH_TEST_AGENT_TIMEOUT_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000),
            ),
            ..Options::default()
        }
    }

    /// A runtime on this stage.
    pub fn runtime(&self) -> Runtime {
        Runtime::new(self.store(), self.backends(), self.options())
    }

    /// Controls the guest of a pod: `exit CONTAINER CODE`, `oom CONTAINER`, `hang`, `panic`.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub fn control_guest(&self, pod: &str, what: &str) -> BackendResult<()> {
        use std::io::{Read, Write};
        let record = self.vm_record(pod)?;
        let fd = ControlClient::connect(&record.socket)?.open_port(TEST_PORT, Duration::from_secs(5))?;
        let mut stream = std::os::unix::net::UnixStream::from(fd);
        let fail = |e| BackendError::system("control the guest", e);
        stream.write_all(what.as_bytes()).map_err(fail)?;
        stream.shutdown(std::net::Shutdown::Write).map_err(fail)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(fail)?;
        Ok(())
    }

    /// The record of a pod's machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn vm_record(&self, pod: &str) -> BackendResult<VmRecord> {
        let store = self.store();
        let id = hutch_runtime::PodId::new(pod).map_err(|e| BackendError::Refused(e.to_string()))?;
        store.need(&store.pod(&id).vm_record()).map_err(|e| BackendError::Refused(e.chain()))
    }

    /// PIDs of the living processes of this stage other than this one.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{STAGE}={}", self.dir.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            if marked && pid != std::process::id() as i32 {
                found.push(pid);
            }
        }
        found
    }

    /// Restarts the host: only the configuration stays.
    pub fn host_restart(&self) {
        self.kill_all();
        for dir in ["ledger", "run"] {
            let _ = std::fs::remove_dir_all(self.dir.join(dir));
        }
        crate::age_markers(&self.dir.join("config"));
    }

    fn kill_all(&self) {
        for pid in self.processes() {
            if let Ok(process) = hutch_runtime::process::ProcessIdentity::of(pid) {
                let _ = process.kill_and_wait(Duration::from_secs(5));
                // Only a child of this process can be collected; the kernel refuses the others.
                let _ = nix::sys::wait::waitpid(
                    nix::unistd::Pid::from_raw(pid),
                    Some(nix::sys::wait::WaitPidFlag::WNOHANG),
                );
            }
        }
    }

    /// Everything that is left on the stage: processes, ledger entries, files.
    pub fn leaks(&self) -> Vec<String> {
        let mut leaks: Vec<String> = self.processes().iter().map(|pid| format!("process {pid}")).collect();
        for dir in ["ledger", "config", "run"] {
            let entries = std::fs::read_dir(self.dir.join(dir)).into_iter().flatten().flatten();
            let entries = entries.filter(|entry| entry.file_name() != hutch_runtime::store::ROOT_MARKER);
            leaks.extend(entries.map(|entry| format!("{dir}: {}", entry.file_name().to_string_lossy())));
        }
        leaks
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.owned.is_some() {
            self.kill_all();
        }
    }
}
