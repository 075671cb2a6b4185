//! Real machines as the subject of the runtime's tables.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hutch_runtime::host::{HostBackends, SHIM_VERB, VMM_VERB};
use hutch_runtime::spec::{Command, ContainerConfig, PodConfig};
use hutch_runtime::vm_host::ReExec;
use hutch_runtime::{Options, Result, Runtime, Store};
use hutch_runtime_fakes::table::Subject;

use crate::{hutch_path, Pods, HANG_TIMEOUT};

/// The guest may see an old file name for this long after a rename: virtio-fs caches names for a second.
const NAME_LIFE: Duration = Duration::from_millis(1100);
/// The containers' program. It ends by itself on SIGUSR2, and handles signals that pid 1 ignores without a handler. When
/// the handlers are set it renames a file, and the test waits for the new name. (It does not create that file directly:
/// if the test removed the file during its creation, the shell would report an error.)
const SERVE: &str = "#!/bin/sh
trap 'exit 0' USR2; trap 'exit 15' TERM; trap 'exit 10' USR1
new=$(cat /proc/sys/kernel/random/uuid); : > /tmp/$new; mv /tmp/$new /tmp/${0##*/}.$new
while :; do sleep 1000 & wait; done
";
/// The runtime as a library, with real machines. The built program serves as VMM process and shim.
pub struct Machines {
    /// The records and the root file system.
    pub pods: Pods,
    /// The command line made it, which fills in the guest assets.
    template: PodConfig,
    runtime: Runtime,
    /// Programs made so far. Each container has its own, which `while_refusing` can rename.
    programs: AtomicUsize,
}

impl Machines {
    /// A runtime without pods.
    pub fn new() -> Self {
        let pods = Pods::new();
        pods.new_pod("create", "template").sh("true").end().expect_code(0);
        let record = std::fs::read_to_string(pods.config("template").join("config.json")).expect("its configuration");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        let template: PodConfig = serde_json::from_value(record["data"].clone()).expect("a configuration");
        let template = PodConfig { containers: Vec::new(), ..template };
        pods.ok(&["pod", "rm", "-f", "template"]);
        let again = |verb: &str| ReExec { program: hutch_path(), args: vec![verb.into()], env: Vec::new() };
        let store = Store::new(pods.configs(), pods.states());
        let backends = HostBackends { vmm: again(VMM_VERB), shim: again(SHIM_VERB), ..Default::default() };
        let options = Options {
            boot_timeout: HANG_TIMEOUT,
            agent_timeout: HANG_TIMEOUT / 10,
            // A walk stops pods whose process still runs, so a longer wait changes nothing.
            stop_timeout: Duration::from_millis(1),
            ..Options::default()
        };
        let backends = backends.backends(&store);
        let runtime = Runtime::new(store, backends, options);
        Self { pods, template, runtime, programs: AtomicUsize::new(0) }
    }

    fn program(&self, pod: &str, container: &str) -> Option<PathBuf> {
        let status = std::fs::read_to_string(self.pods.config(pod).join(container).join("config.json")).ok()?;
        let record: serde_json::Value = serde_json::from_str(&status).ok()?;
        Some(self.pods.root().at(record["data"]["command"]["args"][0].as_str()?))
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self::new()
    }
}

impl Subject for Machines {
    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn pod(&self, id: &str) -> PodConfig {
        PodConfig { id: id.into(), hostname: id.into(), ..self.template.clone() }
    }

    fn container(&self, id: &str) -> ContainerConfig {
        let number = self.programs.fetch_add(1, Ordering::Relaxed);
        let program = format!("/bin/serve-{number}");
        self.pods.root().script(&program, SERVE);
        let command = Command { args: vec![program], detach: true, ..self.command() };
        ContainerConfig { id: id.into(), rootfs: self.pods.root().path().into(), command, ..Default::default() }
    }

    fn command(&self) -> Command {
        Command { args: vec!["/bin/sleep".into(), "1000".into()], detach: true, ..Default::default() }
    }

    fn started(&self, pod: &str, container: &str) {
        let program = self.program(pod, container).expect("a program");
        let prefix = format!("{}.", program.file_name().expect("a name").to_string_lossy());
        let begun = Instant::now();
        loop {
            let entries = std::fs::read_dir(self.pods.root().at("/tmp")).expect("a directory").flatten();
            let found = entries.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(&prefix));
            if let Some(path) = found {
                return std::fs::remove_file(path).expect("a removal");
            }
            assert!(begun.elapsed() < HANG_TIMEOUT, "container {container} of {pod} is not ready for signals");
            sleep(Duration::from_millis(5));
        }
    }

    fn end_process(&self, pod: &str, container: &str) {
        self.runtime.kill_container(pod, container, libc::SIGUSR2, false).expect("a signal");
    }

    fn while_refusing(&self, pod: &str, container: &str, start: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        // Without its program a container cannot start.
        let Some(program) = self.program(pod, container) else { return start() };
        let away = program.with_extension("away");
        std::fs::rename(&program, &away).expect("a renamed program");
        sleep(NAME_LIFE);
        let result = start();
        std::fs::rename(&away, &program).expect("the program is back");
        sleep(NAME_LIFE);
        result
    }

    /// Waits until the shim is gone; from then on the runtime sees the end.
    fn settle(&self, pod: &str, container: &str) -> std::result::Result<(), String> {
        let record = self.pods.state(pod).join(container).join("process.json");
        let record: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(record).expect("a process")).expect("JSON");
        let stat = format!("/proc/{}/stat", record["data"]["pid"].as_i64().expect("a PID"));
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let begun = Instant::now();
        while lives() {
            if begun.elapsed() > HANG_TIMEOUT {
                return Err(format!("the shim of {container} in {pod} does not end"));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
