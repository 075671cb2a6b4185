//! Everything outside of the pod API, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::calls::{perform, Calls, Failing};
use super::guest::FakeGuest;
use super::processes::{FakeShim, FakeVm};
use hutch_runtime::backend::{AgentCapabilities, BackendResult, Backends, RootDisk, VmCapabilities};
use hutch_runtime::network::Endpoint;
use hutch_runtime::spec::{Command, ContainerConfig, HypervisorConfig, NetworkConfig, NetworkKind, PodConfig};
use hutch_runtime::store::{write_record, BindRecord, Disk, ExitRecord, HostDisk, Store};
use hutch_runtime::Options;
use hutch_runtime::Runtime;
use hutch_runtime::Timestamp;

/// Machines, guests, shims, networks and mounts in memory, and a store in a temporary directory. Clones share.
#[derive(Clone)]
pub struct FakeHost {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    dir: TempDir,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) calls: Calls,
    /// By UUID.
    pub(super) vms: BTreeMap<String, FakeVm>,
    /// By PID.
    pub(super) shims: BTreeMap<i32, FakeShim>,
    pub(super) namespaces: BTreeSet<PathBuf>,
    pub(super) interfaces: BTreeMap<PathBuf, Vec<Endpoint>>,
    pub(super) attached: BTreeSet<(PathBuf, String)>,
    pub(super) mounts: BTreeMap<PathBuf, BindRecord>,
    /// Members by group.
    pub(super) cgroups: BTreeMap<PathBuf, BTreeSet<i32>>,
    /// Bounds of the memory of groups, bytes.
    pub(super) memory_limits: BTreeMap<PathBuf, u64>,
    /// Bounds of the waits for ends of shims.
    pub(super) shim_waits: Vec<Duration>,
    /// Interfaces that appear in a namespace once a file exists.
    pub(super) made_by_hooks: Vec<(PathBuf, PathBuf, Endpoint)>,
    pub(super) root_disks: BTreeMap<PathBuf, RootDisk>,
    pub(super) vm_capabilities: VmCapabilities,
    pub(super) agent_capabilities: AgentCapabilities,
    /// Violations of the contract.
    pub(super) violations: Vec<String>,
    next_pid: i32,
}

impl State {
    pub(super) fn fresh_pid(&mut self) -> i32 {
        self.next_pid += 1;
        self.next_pid
    }

    /// The living machine of a pod.
    pub(super) fn vm_of(&mut self, pod: &str) -> Option<&mut FakeVm> {
        self.vms.values_mut().find(|vm| vm.alive && vm.pod == pod)
    }

    /// Lets shims end whose guest process or machine has ended; they leave their exit records.
    pub(super) fn settle(&mut self) {
        let vms = &self.vms;
        for shim in self.shims.values_mut().filter(|shim| shim.alive && shim.started) {
            let vm = vms.values().find(|vm| vm.alive && vm.socket == shim.spec.socket);
            let token = shim.spec.token.clone();
            let (status, reason) = match vm {
                None => (None, Some("the virtual machine ended".to_owned())),
                Some(vm) if !vm.guest.knows(&token) => (None, Some("the guest forgot the process".to_owned())),
                Some(vm) => match vm.guest.status(&token) {
                    None => continue,
                    status => (status, None),
                },
            };
            shim.alive = false;
            let record = ExitRecord { token, status, reason, at: Timestamp::now() };
            // The container's directory may be gone.
            let _ = write_record(&shim.spec.exit_record, &record);
        }
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// An empty host.
    ///
    /// # Panics
    /// If there is no temporary directory.
    pub fn new() -> Self {
        // In memory where possible: records are flushed, and tests write thousands.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("hutch-fakes").tempdir_in(place).expect("a temporary directory");
        for name in ["kernel", "initrd"] {
            std::fs::write(dir.path().join(name), name).expect("a file in the temporary directory");
        }
        std::fs::create_dir(dir.path().join("rootfs")).expect("a directory in the temporary directory");
        let state = State { next_pid: 1_000_000, ..State::default() };
        Self { inner: Arc::new(Inner { dir, state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// The host's directory: `config/` and `run/` are the store's roots.
    pub fn dir(&self) -> &Path {
        self.inner.dir.path()
    }

    /// The store's files.
    pub fn store(&self) -> Store {
        self.store_with(Arc::new(HostDisk))
    }

    /// The store's files behind another disk.
    pub fn store_with(&self, disk: Arc<dyn Disk>) -> Store {
        Store::with_disk(self.dir().join("config"), self.dir().join("run"), disk)
    }

    /// Short bounds, so that tests of time-outs are quick.
    pub fn options(&self) -> Options {
        Options {
            lock_timeout: Duration::from_secs(20),
            list_lock_timeout: Duration::from_millis(30),
            boot_timeout: Duration::from_millis(200),
            stop_timeout: Duration::from_millis(40),
            agent_timeout: Duration::from_millis(200),
            sync_timeout: Duration::from_millis(300),
            reconcile_timeout: Duration::from_secs(60),
            power_off_timeout: Duration::from_millis(100),
            kill_timeout: Duration::from_millis(200),
            ..Options::default()
        }
    }

    /// The fakes.
    pub fn backends(&self) -> Backends {
        let host = Arc::new(self.clone());
        Backends {
            vm: host.clone(),
            agent: host.clone(),
            shims: host.clone(),
            network: host.clone(),
            mounts: host.clone(),
            cgroups: host,
        }
    }

    /// A runtime in this host. Several can be made; they are like several processes.
    pub fn runtime(&self) -> Runtime {
        Runtime::new(self.store(), self.backends(), self.options())
    }

    /// A pod with these containers, each running until it is killed, in a namespace of its own.
    pub fn pod(&self, id: &str, containers: &[&str]) -> PodConfig {
        PodConfig {
            id: id.to_owned(),
            hostname: id.to_owned(),
            hypervisor: HypervisorConfig {
                kernel: self.dir().join("kernel"),
                initrd: Some(self.dir().join("initrd")),
                ..HypervisorConfig::default()
            },
            network: NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() },
            containers: containers.iter().map(|id| self.container(id)).collect(),
            ..PodConfig::default()
        }
    }

    /// A container that runs until it is killed.
    pub fn container(&self, id: &str) -> ContainerConfig {
        self.container_with(id, &["serve"])
    }

    /// A container with a command; see the [module](super) for what the guest makes of it.
    pub fn container_with(&self, id: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: id.to_owned(),
            rootfs: self.dir().join("rootfs"),
            command: Command { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Command::default() },
            ..ContainerConfig::default()
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all that wait for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.settle();
        self.inner.changed.notify_all();
        result
    }

    /// Waits until `ready` returns something, at most `timeout`.
    pub(super) fn wait<T>(&self, timeout: Duration, mut ready: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = hutch_agent_proto::Deadline::after(timeout);
        let mut state = self.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return Some(result);
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A call of a backend: noted, and failed if a test asked for that.
    pub(super) fn called<T>(
        &self,
        name: &str,
        detail: &str,
        call: impl FnOnce(&mut State) -> BackendResult<T>,
    ) -> BackendResult<T> {
        let how = self.lock().calls.note(name, detail);
        perform(name, how, || self.change(call))
    }

    /// The next `call` fails.
    pub fn fail(&self, call: &str, how: Failing) {
        self.fail_nth(call, 1, how);
    }

    /// The `nth` (from 1) `call` from now on fails.
    pub fn fail_nth(&self, call: &str, nth: usize, how: Failing) {
        self.lock().calls.plan(call, nth.saturating_sub(1), 1, how);
    }

    /// Every `call` from now on fails.
    pub fn fail_always(&self, call: &str, how: Failing) {
        self.lock().calls.plan(call, 0, usize::MAX, how);
    }

    /// No more failures.
    pub fn heal(&self) {
        self.lock().calls.clear_plans();
    }

    /// The calls made since this was last asked.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.take()
    }

    /// Looks into, or changes, the guest of a pod.
    ///
    /// # Panics
    /// If the pod has no machine.
    pub fn guest<T>(&self, pod: &str, look: impl FnOnce(&mut FakeGuest) -> T) -> T {
        self.change(|state| look(&mut state.vm_of(pod).unwrap_or_else(|| panic!("pod {pod} has no machine")).guest))
    }

    /// The machine of a pod dies.
    pub fn kill_vm(&self, pod: &str) {
        self.change(|state| {
            if let Some(vm) = state.vm_of(pod) {
                vm.alive = false;
            }
        });
    }

    /// A shim is killed from outside.
    pub fn kill_shim(&self, pid: i32) {
        self.change(|state| {
            if let Some(shim) = state.shims.get_mut(&pid) {
                shim.alive = false;
            }
        });
    }

    /// Forgets ended machines and shims, so that a host can live long.
    pub fn forget_the_dead(&self) {
        self.change(|state| {
            state.vms.retain(|_, vm| vm.alive);
            state.shims.retain(|_, shim| shim.alive);
        });
    }

    /// The host goes down and comes back: no process, no namespace, no mount, an empty runtime root.
    pub fn host_restart(&self) {
        self.change(|state| {
            state.vms.clear();
            state.shims.clear();
            state.namespaces.clear();
            state.attached.clear();
            state.mounts.clear();
            state.cgroups.clear();
            state.memory_limits.clear();
        });
        let _ = std::fs::remove_dir_all(self.dir().join("run"));
        crate::age_markers(&self.dir().join("config"));
    }

    /// Whether the pod's vCPUs are paused.
    pub fn is_paused(&self, pod: &str) -> bool {
        self.change(|state| state.vm_of(pod).is_some_and(|vm| vm.paused))
    }

    /// vCPUs of a pod's machine.
    pub fn vcpus(&self, pod: &str) -> u32 {
        self.change(|state| state.vm_of(pod).map_or(0, |vm| vm.vcpus))
    }

    /// Memory that a pod's machine was asked to have, MiB.
    pub fn memory_mib(&self, pod: &str) -> u64 {
        self.change(|state| state.vm_of(pod).map_or(0, |vm| vm.memory_mib))
    }

    /// The specification that the pod's machine was started with.
    pub fn machine(&self, pod: &str) -> Option<hutch_runtime::backend::VmSpec> {
        self.change(|state| state.vm_of(pod).and_then(|vm| vm.spec.clone()))
    }

    /// Devices plugged into a pod's machine.
    pub fn devices(&self, pod: &str) -> Vec<String> {
        self.change(|state| state.vm_of(pod).map(|vm| vm.devices.iter().cloned().collect()).unwrap_or_default())
    }

    /// Disks that were ever plugged into a pod's machine, in order.
    pub fn disks(&self, pod: &str) -> Vec<hutch_runtime::backend::BlockDevice> {
        self.change(|state| state.vm_of(pod).map(|vm| vm.disks.clone()).unwrap_or_default())
    }

    /// Sets the capabilities of machines.
    pub fn set_vm_capabilities(&self, capabilities: VmCapabilities) {
        self.lock().vm_capabilities = capabilities;
    }

    /// Sets the capabilities of agents.
    pub fn set_agent_capabilities(&self, capabilities: AgentCapabilities) {
        self.lock().agent_capabilities = capabilities;
    }

    /// `rootfs` is a disk.
    pub fn set_root_disk(&self, rootfs: &Path, disk: RootDisk) {
        self.lock().root_disks.insert(rootfs.to_owned(), disk);
    }

    /// Interfaces that a scan of the namespace at `path` finds.
    pub fn set_interfaces(&self, path: &Path, endpoints: Vec<Endpoint>) {
        self.lock().interfaces.insert(path.to_owned(), endpoints);
    }

    /// An interface that is in the namespace at `path` from the moment on at which `file` exists: a hook makes it.
    pub fn add_interface_with(&self, file: &Path, path: &Path, endpoint: Endpoint) {
        self.lock().made_by_hooks.push((file.to_owned(), path.to_owned(), endpoint));
    }

    /// The bounds of the waits for ends of shims since this was last asked.
    pub fn shim_waits(&self) -> Vec<Duration> {
        std::mem::take(&mut self.lock().shim_waits)
    }

    /// Targets of the bind mounts.
    pub fn mounts(&self) -> Vec<PathBuf> {
        self.lock().mounts.keys().cloned().collect()
    }

    /// The living shim of a container's init process, as it was asked for.
    pub fn shim(&self, container: &str) -> Option<hutch_runtime::backend::ShimSpec> {
        let state = self.lock();
        let mut living = state.shims.values().filter(|shim| shim.alive);
        living
            .find(|shim| {
                shim.spec.container == container && shim.spec.pid_namespace == hutch_runtime::backend::PidNamespace::New
            })
            .map(|shim| shim.spec.clone())
    }

    /// The living shim of a process, as it was asked for.
    pub fn shim_of(&self, token: &str) -> Option<hutch_runtime::backend::ShimSpec> {
        let state = self.lock();
        let mut living = state.shims.values().filter(|shim| shim.alive);
        living.find(|shim| shim.spec.token == token).map(|shim| shim.spec.clone())
    }

    /// Members of a control group; `None` if there is no such group.
    pub fn cgroup(&self, name: &str) -> Option<Vec<i32>> {
        self.lock().cgroups.get(Path::new(name)).map(|members| members.iter().copied().collect())
    }

    /// The bound of the memory of a control group, MiB.
    pub fn memory_limit_mib(&self, name: &str) -> Option<u64> {
        self.lock().memory_limits.get(Path::new(name)).map(|bytes| bytes >> 20)
    }

    /// The guest of a pod keeps this much memory, whatever it is asked to give back; MiB.
    pub fn keep_memory(&self, pod: &str, mib: u64) {
        self.change(|state| {
            if let Some(vm) = state.vm_of(pod) {
                vm.kept_mib = mib;
            }
        });
    }

    /// Another program makes a control group before hutch does.
    pub fn make_cgroup(&self, name: &str) {
        for dir in Path::new(name).ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            self.lock().cgroups.entry(dir.to_owned()).or_default();
        }
    }

    /// Another program removes a control group.
    pub fn remove_cgroup(&self, name: &str) {
        self.lock().cgroups.retain(|dir, _| !Path::new(name).starts_with(dir));
    }

    /// Where the namespace of a pod is, if one is made for it.
    pub fn namespace(&self, pod: &str) -> PathBuf {
        self.dir().join("netns").join(pod)
    }

    /// The leaks of deleted pods (processes, namespaces, endpoints, mounts, files) and the violations of the contract.
    pub fn leaks(&self) -> Vec<String> {
        let state = self.lock();
        let mut leaks = state.violations.clone();
        leaks.extend(state.vms.values().filter(|vm| vm.alive).map(|vm| format!("machine of {}", vm.pod)));
        let shims = state.shims.values().filter(|shim| shim.alive);
        leaks.extend(shims.map(|shim| format!("shim of {}", shim.spec.container)));
        leaks.extend(state.namespaces.iter().map(|path| format!("namespace {}", path.display())));
        leaks.extend(state.attached.iter().map(|(path, name)| format!("endpoint {name} in {}", path.display())));
        leaks.extend(state.mounts.keys().map(|path| format!("mount {}", path.display())));
        leaks.extend(state.cgroups.keys().map(|path| format!("control group {}", path.display())));
        for root in ["config", "run"] {
            let entries = std::fs::read_dir(self.dir().join(root)).into_iter().flatten().flatten();
            let entries = entries.filter(|entry| entry.file_name() != hutch_runtime::store::ROOT_MARKER);
            leaks.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        leaks
    }
}

impl std::fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHost").field("dir", &self.dir()).finish_non_exhaustive()
    }
}
