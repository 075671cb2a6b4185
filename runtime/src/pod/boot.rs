//! Steps 4 to 15 of a creation: namespace, VMM process, hooks, endpoints, machine, agent (pod contract, §6.1). Also
//! what StartPod does first for a stopped pod (P-072).

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hutch_agent_proto::{GuestMount, Request, SandboxSpec, AGENT_PORT};
use hutch_vmm::confine::root::MountNamespace;

use crate::backend::{Namespace, NetDevice, Share, VmHandle, VmLaunch, VmSpec, SHARED_TAG};
use crate::error::{Component, Error, Result};
use crate::hook::{self, HookState};
use crate::id::{random_hex, ContainerId};
use crate::network::{guest_network, Endpoint, EndpointKind};
use crate::pod::{guarded, OpenPod};
use crate::process::ProcessIdentity;
use crate::spec::oci::{BUNDLE_KEY, GUEST_SHARED_DIR};
use crate::spec::{Bridge, CacheMode, NetworkKind, PodConfig, SetIds};
use crate::store::{AgentRecord, NetworkRecord, VmRecord};
use crate::undo::Undo;
use crate::vm_host::network_namespace;

/// Version of the OCI runtime specification in the state that hooks get.
const OCI_VERSION: &str = "1.2.0";

/// A step of a creation, to be undone if it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodStep {
    /// Directories and records.
    Directories,
    /// Namespace and endpoints.
    Network,
    /// The VMM process.
    Machine,
    /// A container.
    Container(ContainerId),
}

impl OpenPod<'_> {
    /// Boots the pod's machine. Every effect is recorded before the clean-up can need it.
    pub(crate) fn boot(&mut self, undo: &mut Undo<PodStep>) -> Result<()> {
        self.store().delete(&self.dirs.failure_record())?;
        self.init_machine()?;
        undo.push(PodStep::Network);
        let (namespace, mut network) = self.make_namespace()?;
        undo.push(PodStep::Machine);
        self.spawn_machine(&namespace)?;
        self.run_early_hooks(&namespace)?;
        self.connect_network(&namespace, &mut network)?;
        let spec = self.machine_spec(&network.endpoints);
        let jail = self.sandbox.vm_call("start", |vm| vm.start(&spec))?;
        self.record_jail(jail)?;
        let timeout = self.rt.options().boot_timeout;
        self.sandbox.vm_call("wait-ready", |vm| vm.wait_ready(timeout))?;
        self.setup_sandbox(&network.endpoints)?;
        self.run_container_hooks(&namespace)
    }

    /// Undoes one step of a boot. Records stay.
    pub(crate) fn roll_back_boot(&mut self, step: &PodStep) -> Result<()> {
        match step {
            PodStep::Machine => {
                self.sandbox.kill_vm()?;
                // Its process has made the file for it.
                self.store().delete(&self.dirs.failure_record())?;
                self.forget_machine()
            }
            PodStep::Network => {
                self.teardown_network()?;
                self.forget_machine()
            }
            PodStep::Directories | PodStep::Container(_) => Ok(()),
        }
    }

    /// Removes control group and records of a machine that is gone, with all shims.
    pub(crate) fn forget_machine(&mut self) -> Result<()> {
        let store = self.store();
        if let Some(record) = self.sandbox.record() {
            let made = match (&record.cgroup_made, &record.cgroup) {
                (Some(made), _) => made.clone(),
                (None, group) => group.iter().cloned().collect(),
            };
            let cgroups = &self.sandbox.backends.cgroups;
            for dir in made.iter().rev() {
                if !guarded(Component::Cgroups, "remove", || cgroups.remove(dir))? {
                    // Another pod is in it, and has it on record.
                    break;
                }
            }
            store.remove_file(&record.socket)?;
        }
        store.delete(&self.dirs.agent_record())?;
        store.delete(&self.dirs.vm_record())?;
        self.sandbox.set_record(None);
        Ok(())
    }

    /// A new identity for the machine.
    fn init_machine(&mut self) -> Result<()> {
        let uuid = new_uuid()?;
        let socket = self.dirs.control_socket(&uuid)?;
        let bridges = (0..self.config.hypervisor.bridges).map(|n| Bridge::new(format!("bridge-{n}"))).collect();
        let process = ProcessIdentity::NONE;
        let cgroups = self.sandbox.backends.cgroups.clone();
        let cgroup = match self.config.cgroup.as_str() {
            "" => None,
            name => guarded(Component::Cgroups, "plan", || cgroups.plan(name))?,
        };
        let others = if cgroup.is_some() { self.other_machines()? } else { Vec::new() };
        let slots = self.sandbox.backends.vm.capabilities().block_slots;
        let record = VmRecord {
            uuid,
            process,
            socket,
            bridges,
            block_slots: slots.then(|| self.wanted_slots()),
            max_vcpus: self.most_vcpus(),
            hotplugged_vcpus: Default::default(),
            hotplugged_mib: 0,
            resizing: false,
            limited_mib: None,
            unlimited: None,
            in_memory: Default::default(),
            jail: None,
            cgroup: cgroup.clone(),
            cgroup_made: cgroup.as_deref().map(|dir| self.made_directories(dir, &others)).transpose()?,
        };
        self.sandbox.set_record(Some(record));
        let shared = self.dirs.shared_dir();
        self.store().make_dir(&shared)?;
        self.put_vm_record()?;
        let mounts = &self.sandbox.backends.mounts;
        guarded(Component::Mounts, "publish", || mounts.publish(&shared))?;
        if let Some(dir) = &cgroup {
            guarded(Component::Cgroups, "create", || cgroups.create(dir))?;
        }
        let related = |other: &VmRecord| match (&other.cgroup, &cgroup) {
            (Some(other), Some(dir)) => other.starts_with(dir) || dir.starts_with(other),
            _ => false,
        };
        let neighbours: Vec<_> = others.into_iter().filter(|(_, other)| related(other)).collect();
        self.begin_memory_limit(&neighbours)
    }

    /// The machines of other pods that have control groups.
    fn other_machines(&self) -> Result<Vec<(String, VmRecord)>> {
        let store = self.store();
        let ids = store.all_ids()?.into_iter().filter(|id| *id != self.id);
        let records = ids.filter_map(|id| Some((id.to_string(), store.get_or_warn(&store.pod(&id).vm_record())?)));
        Ok(records.filter(|(_, record)| record.cgroup.is_some()).collect())
    }

    /// The directories of the group `dir` that go with the pod: those that it will make, and those that other pods have
    /// made. A group that was there before hutch is left as it was.
    fn made_directories(&self, dir: &Path, others: &[(String, VmRecord)]) -> Result<Vec<PathBuf>> {
        let cgroups = &self.sandbox.backends.cgroups;
        let mut made = guarded(Component::Cgroups, "missing", || cgroups.missing(dir))?;
        for (_, other) in others {
            made.extend(other.cgroup_made.iter().flatten().filter(|other| dir.starts_with(other)).cloned());
        }
        made.sort();
        made.dedup();
        Ok(made)
    }

    /// Moves a process of the pod into its control group, if it has one.
    pub(crate) fn join_cgroup(&self, process: ProcessIdentity) -> Result<()> {
        let Some(dir) = self.sandbox.record().and_then(|record| record.cgroup.as_ref()) else { return Ok(()) };
        let cgroups = &self.sandbox.backends.cgroups;
        guarded(Component::Cgroups, "add", || cgroups.add(dir, process.pid))?;
        self.count_in_memory_limit();
        Ok(())
    }

    fn make_namespace(&mut self) -> Result<(Namespace, NetworkRecord)> {
        let network = self.sandbox.backends.network.clone();
        let (id, config) = (self.id.as_str(), &self.config.network);
        let namespace = guarded(Component::Network, "plan", || network.plan(id, config))?;
        let record =
            NetworkRecord { namespace: namespace.path.clone(), created: namespace.created, endpoints: Vec::new() };
        self.put_network(&record)?;
        if namespace.created {
            guarded(Component::Network, "create", || network.create(id, &namespace, config))?;
        }
        Ok((namespace, record))
    }

    /// The VMM process is born inside the namespace (P-065) and recorded before it may do anything (P-206).
    fn spawn_machine(&mut self, namespace: &Namespace) -> Result<()> {
        let record = self.sandbox.record().cloned().ok_or_else(|| unrecorded("spawn"))?;
        let backends = self.sandbox.backends.clone();
        let log = self.dirs.vmm_log();
        let launch = VmLaunch {
            pod: self.id.as_str(),
            uuid: &record.uuid,
            run_dir: self.dirs.run_dir(),
            socket: &record.socket,
            log: &log,
            program: self.config.hypervisor.vmm.as_deref(),
            jail: self.config.hypervisor.jail,
            no_network: self.has_no_network(),
        };
        let mut spawned = None;
        guarded(Component::Vmm, "spawn", || {
            backends.network.run(namespace, &mut || spawned = Some(backends.vm.spawn(&launch)))
        })?;
        let vm: Box<dyn VmHandle> =
            spawned.ok_or_else(|| unrecorded("spawn"))?.map_err(|e| Error::backend(Component::Vmm, "spawn", e))?;
        if let Some(record) = self.sandbox.record_mut() {
            record.process = vm.process();
        }
        self.put_vm_record()?;
        let process = vm.process();
        self.sandbox.set_vm(vm);
        self.join_cgroup(process)
    }

    /// Whether the VMM process has no use for a network namespace: the pod has no network, and no hook, which may reach the
    /// namespace by the process and make one there.
    fn has_no_network(&self) -> bool {
        let PodConfig { network, hooks, .. } = &self.config;
        network.kind == NetworkKind::None && network.namespace.is_none() && hooks.is_empty()
    }

    /// Records what confines the VMM process, if that has said so.
    fn record_jail(&mut self, jail: Option<String>) -> Result<()> {
        if let (Some(_), Some(record)) = (&jail, self.sandbox.record_mut()) {
            record.jail = jail;
            self.put_vm_record()?;
        }
        Ok(())
    }

    /// Prestart and createRuntime hooks, in the namespace and before its interfaces are scanned (P-064, P-166).
    fn run_early_hooks(&mut self, namespace: &Namespace) -> Result<()> {
        let hooks = &self.config.hooks;
        if hooks.prestart.is_empty() && hooks.create_runtime.is_empty() {
            return Ok(());
        }
        let (prestart, create_runtime) = (hooks.prestart.clone(), hooks.create_runtime.clone());
        let state = self.hook_state("creating");
        self.in_namespace(namespace, || {
            hook::run_fatal("hook.prestart", &prestart, &state)?;
            hook::run_fatal("hook.createRuntime", &create_runtime, &state)
        })
    }

    /// CreateContainer hooks, in the VMM's network namespace (P-166), which is the pod's. Its other namespaces are its jail:
    /// there is nothing in them for a hook.
    fn run_container_hooks(&mut self, namespace: &Namespace) -> Result<()> {
        let hooks = self.config.hooks.create_container.clone();
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.hook_state("creating");
        self.in_namespace(namespace, || hook::run_fatal("hook.createContainer", &hooks, &state))
    }

    /// Runs `job` in the pod's network namespace and returns its result.
    fn in_namespace<T: Send>(&self, namespace: &Namespace, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let (mut job, mut result) = (Some(job), None);
        self.sandbox
            .backends
            .network
            .run(namespace, &mut || result = job.take().map(|job| job()))
            .map_err(|e| Error::backend(Component::Network, "run", e))?;
        result.ok_or_else(|| unrecorded("run"))?
    }

    /// Each endpoint is recorded before it is made.
    fn connect_network(&mut self, namespace: &Namespace, record: &mut NetworkRecord) -> Result<()> {
        let network = self.sandbox.backends.network.clone();
        let (id, config) = (self.id.clone(), self.config.network.clone());
        let endpoints = guarded(Component::Network, "scan", || {
            let mut found = Ok(Vec::new());
            network.run(namespace, &mut || found = network.scan(id.as_str(), namespace, &config))?;
            found
        })?;
        for endpoint in endpoints {
            record.endpoints.push(endpoint.clone());
            self.put_network(record)?;
            guarded(Component::Network, "attach", || {
                let mut attached = Ok(());
                network.run(namespace, &mut || attached = network.attach(namespace, &endpoint))?;
                attached
            })?;
        }
        self.put_network(record)
    }

    fn machine_spec(&self, endpoints: &[Endpoint]) -> VmSpec {
        let machine = &self.config.hypervisor;
        let hotplug = self.sandbox.backends.vm.capabilities().cpu_hotplug;
        let shared = Share {
            tag: SHARED_TAG.into(),
            path: self.dirs.shared_dir(),
            read_only: false,
            cache: CacheMode::Auto,
            // The roots of containers are in it: programs such as sudo need their set-id bits.
            suid: SetIds::Keep,
            trusted: false,
        };
        let volumes = self.config.volumes.iter().map(|volume| Share {
            tag: volume.tag.clone(),
            path: volume.path.clone(),
            read_only: volume.read_only,
            cache: volume.cache,
            suid: volume.suid,
            trusted: volume.trusted,
        });
        let nets = endpoints.iter().enumerate().map(|(index, endpoint)| {
            let EndpointKind::Tap { tap, .. } = &endpoint.kind;
            NetDevice { id: format!("net{index}"), tap: tap.clone(), mac: endpoint.mac.clone(), mtu: endpoint.mtu }
        });
        VmSpec {
            name: self.id.to_string(),
            uuid: self.sandbox.record().map(|record| record.uuid.clone()).unwrap_or_default(),
            kernel: machine.kernel.clone(),
            initrd: machine.initrd.clone(),
            image: machine.image.clone(),
            firmware: machine.firmware.clone(),
            kernel_parameters: machine.kernel_parameters.iter().map(|parameter| parameter.text()).collect(),
            // A machine that cannot grow gets all its containers may use from the start.
            vcpus: if hotplug { machine.vcpus } else { self.config.target_vcpus() },
            max_vcpus: self.sandbox.record().map_or(0, |record| record.max_vcpus),
            memory_mib: machine.memory_mib,
            max_memory_mib: if self.grows() { machine.max_memory_mib } else { 0 },
            huge_pages: machine.huge_pages,
            memory_prealloc: machine.memory_prealloc,
            mlock: machine.mlock,
            debug: machine.debug,
            jail: machine.jail,
            shares: std::iter::once(shared).chain(volumes).collect(),
            nets: nets.collect(),
            block_slots: self.sandbox.record().and_then(|record| record.block_slots).unwrap_or(0),
            console: machine.debug.then(|| self.dirs.console_log()),
            failure_record: self.dirs.failure_record().path().to_owned(),
            mount_namespace: MountNamespace::of_this_thread().ok().map(|MountNamespace(number)| number),
            network_namespace: self.has_no_network().then(network_namespace).flatten(),
        }
    }

    /// Records the agent, then sets the guest up: host name, shares, network.
    fn setup_sandbox(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let socket = self.sandbox.record().map(|record| record.socket.clone()).unwrap_or_default();
        let url = format!("unix://{}:{AGENT_PORT}", socket.display());
        self.store().put(&self.dirs.agent_record(), &AgentRecord { proxy_pid: 0, url })?;
        let sandbox = SandboxSpec {
            hostname: self.config.guest_hostname().to_owned(),
            unix_ns: unix_ns(),
            mounts: self.guest_mounts(),
            network: guest_network(endpoints, &self.config.network.dns),
            memory_more: self.first_memory()?,
            ..SandboxSpec::default()
        };
        self.sandbox.send("setup-sandbox", Request::SetupSandbox(Box::new(sandbox)))
    }

    fn guest_mounts(&self) -> Vec<GuestMount> {
        let shared = (SHARED_TAG, GUEST_SHARED_DIR.to_owned(), false);
        let volumes = self
            .config
            .volumes
            .iter()
            .map(|volume| (volume.tag.as_str(), format!("/run/hutch/volumes/{}", volume.tag), volume.read_only));
        std::iter::once(shared)
            .chain(volumes)
            .map(|(tag, target, read_only)| GuestMount {
                source: tag.to_owned(),
                target,
                fstype: "virtiofs".into(),
                options: if read_only { vec!["ro".into()] } else { Vec::new() },
                in_root: false,
            })
            .collect()
    }

    /// The state that hooks read on their stdin (P-161). The PID is the VMM's, whose main thread is in the namespace
    /// (P-167).
    pub(crate) fn hook_state(&self, status: &str) -> HookState {
        let pid = self.sandbox.record().map(|record| record.process.pid).filter(|pid| *pid > 0);
        let bundle = self.config.annotations.get(BUNDLE_KEY).cloned().unwrap_or_default();
        HookState {
            oci_version: OCI_VERSION.into(),
            id: self.id.to_string(),
            status: status.into(),
            pid,
            bundle: bundle.into(),
            annotations: self.config.annotations.clone(),
        }
    }
}

/// A backend reported success without a result.
fn unrecorded(operation: &'static str) -> Error {
    let source = crate::backend::BackendError::Refused("the operation had no result".into());
    Error::Backend { component: Component::Vmm, operation, source }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid() -> Result<String> {
    let mut hex: Vec<char> = random_hex(16)?.chars().collect();
    hex[12] = '4';
    hex[16] = ['8', '9', 'a', 'b'][hex[16].to_digit(16).unwrap_or(0) as usize % 4];
    let hex: String = hex.into_iter().collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
