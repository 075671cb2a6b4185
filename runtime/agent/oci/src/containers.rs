//! The containers of a guest: [`hutch_agent::Containers`] by libcontainer. Runs on connection threads.
//!
//! Code that forks runs in a helper process ([`crate::run_job`]); everything else runs here, on control groups, pidfds
//! and sockets. No thread holds a lock while a helper runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hutch_agent::failure::{invalid, io, not_found, system, wrong_state, Outcome};
use hutch_agent::{lock, look_up_user, resolver_file, RESOLVER};
use hutch_agent::{Agent, Child, ChildStdio, Containers, Identity, RootDir, Streams};
use hutch_agent_proto::{
    is_token, ProcessSpec, RemoteError, RemoteErrorKind, Request, Response, WindowSize, MAX_SIGNAL,
};
use serde_json::Value;

use crate::cgroup::{self, Cgroup};
use crate::config::{check_id, Config};
use crate::console::Console;
use crate::container::{Container, Places};
use crate::guest_hooks::GuestHooks;
use crate::job::{HookPoint, Job};
use crate::oom::OomWatcher;
use crate::pre_exec::ExecPrep;
use crate::spawn_helper::{spawn_helper, Spawned};
use crate::{limits, seccomp, stats};

/// How long killed processes may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs OCI containers with libcontainer.
pub struct OciContainers {
    places: Places,
    /// The agent's file with the resolver's configuration; it need not exist.
    resolver: PathBuf,
    /// Containers by id; `None` while a container is being created.
    table: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
    /// Whether the control groups are ready.
    prepared: Mutex<bool>,
    oom: OomWatcher,
    /// Counts processes that entered containers, for names of files.
    entered: AtomicU64,
}

impl OciContainers {
    /// A guest without containers yet; their files will lie below `run_dir`.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            places: Places::below(run_dir),
            resolver: resolver_file(run_dir),
            table: Mutex::default(),
            prepared: Mutex::new(false),
            oom: OomWatcher::default(),
            entered: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Container>>>> {
        lock(&self.table)
    }

    fn find(&self, id: &str) -> Outcome<Arc<Container>> {
        match self.table().get(id) {
            Some(Some(container)) => Ok(Arc::clone(container)),
            _ => Err(not_found(format!("there is no container {id:?}"))),
        }
    }

    /// Prepares the control groups before the first container.
    fn prepare(&self) -> Outcome<()> {
        let mut prepared = lock(&self.prepared);
        if !*prepared {
            cgroup::prepare()?;
            *prepared = true;
        }
        Ok(())
    }

    fn create(&self, agent: &Arc<Agent>, new: &New, config: Value) -> Outcome<Response> {
        check_id(new.id)?;
        if !is_token(new.token) {
            return Err(invalid(format!("{:?} is not a token", new.token)));
        }
        let config = Config::read(config, new.id, &Cgroup::oci_path(new.id))?;
        self.prepare()?;
        match self.table().entry(new.id.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => {
                return Err(RemoteError::new(
                    RemoteErrorKind::AlreadyExists,
                    format!("there is already a container {:?}", new.id),
                ));
            }
            std::collections::btree_map::Entry::Vacant(slot) => slot.insert(None),
        };
        let mut created = None;
        let pid = agent.register(new.token, || {
            let result = self.make(agent, new, config);
            if result.is_err() {
                // Before the token is free again.
                self.clean_up(agent, new.id);
            }
            let (container, child, streams) = result?;
            created = Some(container);
            Ok((child, streams))
        });
        let mut table = self.table();
        match pid {
            Ok(pid) => {
                table.insert(new.id.to_owned(), created.map(Arc::new));
                Ok(Response::Started { pid })
            }
            Err(error) => {
                table.remove(new.id);
                Err(error)
            }
        }
    }

    /// Makes the container. On failure the caller cleans up.
    fn make(&self, agent: &Arc<Agent>, new: &New, mut config: Config) -> Outcome<(Container, Child, Streams)> {
        let root = RootDir::open(Path::new(&config.rootfs))
            .map_err(|errno| invalid(format!("root file system {:?}: {}", config.rootfs, errno.desc())))?;
        let identity = match new.user {
            Some(user) => look_up_user(&root, user, new.groups)?,
            None => look_up_user(&root, &config.uid.to_string(), &[])?,
        };
        let named = new.user.is_some();
        let uid = if named { identity.uid } else { config.uid };
        config.set_identity(&identity, named);
        if !config.is_on_mount(&config.cwd) {
            // A failure shows when the process enters the directory.
            let _ = root.make_directory(Path::new(&config.cwd));
        }
        self.share_resolver(agent, &root, &mut config);
        self.places.make(new.id)?;
        let bundle = self.places.bundle(new.id);
        config.state.bundle = text(&bundle)?.to_owned();
        let guest_hooks = config.guest_hooks.take();
        let guest_hooks = guest_hooks.map(|dir| GuestHooks { dir: dir.into(), state: config.state.clone() });
        guest_hooks.iter().try_for_each(GuestHooks::check)?;
        self.exec_prep(agent, &mut config)?.write(&bundle)?;
        let file = bundle.join("config.json");
        fs::write(&file, config.to_json()).map_err(|error| io(file.display(), &error))?;
        let stdio = Endpoints::open(&bundle, "console.sock", config.terminal, new.stdin, &identity, uid)?;
        let (root, id, console) = (self.places.state.clone(), new.id.to_owned(), stdio.console_path());
        let job = Job::Create { root, id, bundle, console };
        let Spawned { child, channel } = spawn_helper(agent, &job, stdio.process_sides())?;
        let streams = stdio.into_streams(new.terminal_size.unwrap_or_default())?;
        let init = child.pidfd.try_clone().map_err(|error| io("a descriptor", &error))?;
        let process = (child.pid, init);
        let container = Container::new(new.id, new.token, config.exec_template(), process, channel, guest_hooks);
        self.oom.watch(agent, new.id, &container.group)?;
        if let Some(hooks) = &container.guest_hooks {
            hooks.run(agent, HookPoint::Prestart, Some(child.pid))?;
        }
        Ok((container, child, streams))
    }

    /// The last steps of the container's processes. Compiles the seccomp profile, and so finds mistakes in it.
    fn exec_prep(&self, agent: &Agent, config: &mut Config) -> Outcome<ExecPrep> {
        let compiled = config.seccomp.as_ref().map(seccomp::compile).transpose()?;
        if let Some(unknown) = compiled.as_ref().map(|compiled| &compiled.unknown).filter(|names| !names.is_empty()) {
            let id = &config.state.id;
            agent.warn(format!("container {id:?}: seccomp profile: no such system calls: {}", unknown.join(", ")));
        }
        Ok(ExecPrep {
            filter: compiled.map(|compiled| compiled.filter),
            hooks: std::mem::take(&mut config.hooks),
            state: config.state.clone(),
        })
    }

    /// Mounts the pod's resolver configuration in the container, unless the container has a mount of its own there.
    fn share_resolver(&self, agent: &Agent, root: &RootDir, config: &mut Config) {
        if config.is_on_mount(RESOLVER) || !self.resolver.exists() {
            return;
        }
        match (root.make_file(Path::new(RESOLVER)), self.resolver.to_str()) {
            (Ok(_), Some(source)) => config.mount_file(source, RESOLVER),
            // A root that is read-only on the host and has no such file can still run programs that do not need it.
            (Err(errno), _) => agent.warn(format!("{RESOLVER} in {:?}: {}", config.rootfs, errno.desc())),
            (Ok(_), None) => agent.warn(format!("{}: its name is not text", self.resolver.display())),
        }
    }

    /// Removes the rest of a container whose creation failed.
    fn clean_up(&self, agent: &Agent, id: &str) {
        self.oom.forget(agent, id);
        let group = Cgroup::of(id);
        group.signal(libc::SIGKILL);
        if !group.wait_event("populated", 0, KILL_TIMEOUT) {
            agent.warn(format!("processes of container {id:?}, which could not be created, do not end"));
        }
        if let Err(error) = group.remove() {
            agent.warn(format!("container {id:?}, which could not be created: {error}"));
        }
        self.places.remove(id);
    }

    fn remove(&self, agent: &Agent, id: &str, force: bool) -> Outcome<()> {
        let container = self.find(id)?;
        if !container.has_stopped() && !force {
            return Err(wrong_state(format!("container {id:?} has not stopped")));
        }
        // Members can outlive the init only if the container has no process namespace of its own.
        let late = || RemoteError::new(RemoteErrorKind::Timeout, format!("processes of container {id:?} do not end"));
        if !container.kill(KILL_TIMEOUT) {
            return Err(late());
        }
        if !agent.processes().forget_ending(&container.tokens(), KILL_TIMEOUT) {
            return Err(late());
        }
        self.oom.forget(agent, id);
        container.group.remove()?;
        if let Some(hooks) = &container.guest_hooks {
            hooks.run_logged(agent, HookPoint::Poststop, None);
        }
        self.places.remove(id);
        self.table().remove(id);
        Ok(())
    }

    fn enter(&self, agent: &Agent, id: &str, token: &str, spec: &ProcessSpec) -> Outcome<(Child, Streams)> {
        let container = self.find(id)?;
        container.check_alive()?;
        container.check_not_paused()?;
        let root = RootDir::open(Path::new(&format!("/proc/{}/root", container.pid)))
            .map_err(|errno| wrong_state(format!("root of container {id:?}: {}", errno.desc())))?;
        let identity = look_up_user(&root, &spec.user, &spec.groups)?;
        let process = container.exec_template.process(spec, &identity)?;
        let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
        root.make_directory(Path::new(cwd)).map_err(|errno| {
            invalid(format!("working directory {cwd:?} does not exist and cannot be created: {}", errno.desc()))
        })?;
        let bundle = self.places.bundle(id);
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        let file = Temporary(bundle.join(format!("process-{number}.json")));
        fs::write(&file.0, process.to_string()).map_err(|error| io(file.0.display(), &error))?;
        let name = format!("console-{number}.sock");
        let stdio = Endpoints::open(&bundle, &name, spec.terminal.is_some(), spec.stdin, &identity, identity.uid)?;
        let job = Job::Exec {
            root: self.places.state.clone(),
            id: id.to_owned(),
            process: file.0.clone(),
            console: stdio.console_path(),
        };
        let spawned = spawn_helper(agent, &job, stdio.process_sides());
        let Spawned { child, channel: _ } = spawned.map_err(|error| match container.check_alive() {
            // The container ended meanwhile, which explains any system error.
            Err(stopped) if error.kind == RemoteErrorKind::System => stopped,
            _ => error,
        })?;
        let streams = stdio.into_streams(spec.terminal.unwrap_or_default())?;
        container.adopt(token);
        Ok((child, streams))
    }
}

impl Containers for OciContainers {
    fn serve(&self, agent: &Arc<Agent>, request: Request) -> Outcome<Response> {
        match request {
            Request::CreateContainer { id, token, spec, user, groups, terminal_size, stdin } => {
                let (user, groups) = (user.as_deref(), groups.as_slice());
                let new = New { id: &id, token: &token, user, groups, terminal_size, stdin };
                return self.create(agent, &new, *spec);
            }
            Request::StartContainer { id } => {
                let container = self.find(&id)?;
                container.start(&self.places)?;
                agent.note_run();
                if let Some(hooks) = &container.guest_hooks {
                    hooks.run_logged(agent, HookPoint::Poststart, Some(container.pid));
                }
            }
            Request::KillContainer { id, signal, all } => {
                let container = self.find(&id)?;
                if !(1..=MAX_SIGNAL).contains(&signal) {
                    return Err(invalid(format!("{signal} is not a signal")));
                }
                container.signal(signal, all)?;
            }
            Request::RemoveContainer { id, force } => self.remove(agent, &id, force)?,
            Request::PauseContainer { id } => self.find(&id)?.freeze(true)?,
            Request::ResumeContainer { id } => self.find(&id)?.freeze(false)?,
            Request::UpdateContainer { id, limits } => {
                let container = self.find(&id)?;
                container.check_alive()?;
                limits::update(&container.group, &limits)?;
            }
            Request::ListProcesses { id } => {
                let container = self.find(&id)?;
                return Ok(Response::Processes(stats::processes(&container.group, &agent.processes().living())));
            }
            Request::Stats { id } => {
                let container = self.find(&id)?;
                return Ok(Response::Stats(Box::new(stats::stats(&container.group))));
            }
            other => {
                return Err(RemoteError::new(RemoteErrorKind::Unsupported, format!("not about containers: {other:?}")))
            }
        }
        Ok(Response::Done)
    }

    fn start(&self, agent: &Agent, id: &str, token: &str, process: &ProcessSpec) -> Outcome<(Child, Streams)> {
        self.enter(agent, id, token, process)
    }
}

/// A container to be created, apart from its configuration.
struct New<'a> {
    id: &'a str,
    token: &'a str,
    /// User and additional groups to look up by name. `None`: the configuration has numbers.
    user: Option<&'a str>,
    groups: &'a [String],
    terminal_size: Option<WindowSize>,
    stdin: bool,
}

/// Both sides of the standard streams: pipes, or a terminal that libcontainer will make inside the container.
enum Endpoints {
    Pipes(ChildStdio),
    Terminal { console: Console, null: fs::File, uid: u32 },
}

impl Endpoints {
    fn open(dir: &Path, name: &str, terminal: bool, stdin: bool, identity: &Identity, uid: u32) -> Outcome<Self> {
        if terminal {
            let null = fs::File::options().read(true).write(true).open("/dev/null");
            let null = null.map_err(|error| io("/dev/null", &error))?;
            return Ok(Self::Terminal { console: Console::listen(dir, name)?, null, uid });
        }
        let stdio = ChildStdio::pipes(stdin)?;
        stdio.give_to(&Identity { uid, ..identity.clone() })?;
        Ok(Self::Pipes(stdio))
    }

    fn console_path(&self) -> Option<PathBuf> {
        match self {
            Self::Pipes(_) => None,
            Self::Terminal { console, .. } => Some(console.path().to_owned()),
        }
    }

    fn process_sides(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Pipes(stdio) => stdio.process_sides(),
            Self::Terminal { null, .. } => [null.as_fd(); 3],
        }
    }

    fn into_streams(self, size: WindowSize) -> Outcome<Streams> {
        match self {
            Self::Pipes(stdio) => Ok(stdio.into_streams()),
            Self::Terminal { console, uid, .. } => console.receive(size, uid),
        }
    }
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| system(path.display(), nix::errno::Errno::EINVAL))
}

/// A file that is removed on drop.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
