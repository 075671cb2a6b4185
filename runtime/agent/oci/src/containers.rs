//! The containers of a guest: [`hutch_agent::container::Containers`] with libcontainer behind it. Connection threads.
//!
//! What forks runs in a helper process ([`crate::helper`]); everything else is done here, on control groups, pidfds
//! and sockets. No lock is held while a helper runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hutch_agent::container::Containers;
use hutch_agent::failure::{invalid, io, not_found, system, wrong_state, Outcome};
use hutch_agent::launch::Stdio;
use hutch_agent::process::Streams;
use hutch_agent::root::Root;
use hutch_agent::server::Agent;
use hutch_agent::setup::{resolver_file, RESOLVER};
use hutch_agent::spawn::Child;
use hutch_agent::user::{look_up, Identity};
use hutch_agent_proto::{is_token, ErrorKind, ProcessSpec, RemoteError, Request, Response, WindowSize};
use serde_json::Value;

use crate::cgroup::{self, Cgroup};
use crate::config::{check_id, Config};
use crate::console::Console;
use crate::container::{Container, Places};
use crate::finish::Finish;
use crate::guest_hooks::{GuestHooks, When};
use crate::helper::NO_CONSOLE;
use crate::oom::OomWatcher;
use crate::summon::{summon, Made};
use crate::{figures, limits, seccomp};

/// Highest signal number.
const MAX_SIGNAL: i32 = 64;
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub struct OciContainers {
    places: Places,
    /// The resolver's configuration, if there is any.
    resolver: PathBuf,
    /// `None`: being created.
    table: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
    /// Control groups are ready.
    prepared: Mutex<bool>,
    oom: OomWatcher,
    /// Counts processes that entered containers, for names of files.
    entered: AtomicU64,
}

impl OciContainers {
    /// No containers yet; their files will lie below `run_dir`.
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Outcome<Arc<Container>> {
        match self.table().get(id) {
            Some(Some(container)) => Ok(Arc::clone(container)),
            _ => Err(not_found(format!("there is no container {id:?}"))),
        }
    }

    /// Once, before the first container.
    fn prepare(&self) -> Outcome<()> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
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
                    ErrorKind::AlreadyExists,
                    format!("there is already a container {:?}", new.id),
                ));
            }
            std::collections::btree_map::Entry::Vacant(slot) => slot.insert(None),
        };
        let mut made = None;
        let pid = agent.register(new.token, || {
            let result = self.make(agent, new, config);
            if result.is_err() {
                // Before the token is free again.
                self.clear_away(agent, new.id);
            }
            let (container, child, streams) = result?;
            made = Some(container);
            Ok((child, streams))
        });
        let mut table = self.table();
        match pid {
            Ok(pid) => {
                table.insert(new.id.to_owned(), made.map(Arc::new));
                Ok(Response::Started { pid })
            }
            Err(error) => {
                table.remove(new.id);
                Err(error)
            }
        }
    }

    /// Makes the container; on failure the caller clears away.
    fn make(&self, agent: &Arc<Agent>, new: &New, mut config: Config) -> Outcome<(Container, Child, Streams)> {
        let root = Root::open(Path::new(&config.rootfs))
            .map_err(|errno| invalid(format!("root file system {:?}: {}", config.rootfs, errno.desc())))?;
        let identity = match &config.user {
            Some((user, groups)) => look_up(&root, user, groups)?,
            None => look_up(&root, &config.uid.to_string(), &[])?,
        };
        let named = config.user.is_some();
        let uid = if named { identity.uid } else { config.uid };
        config.set_identity(&identity, named);
        if !config.is_on_mount(&config.cwd) {
            // If it cannot be made, entering it will tell.
            let _ = root.make_directory(Path::new(&config.cwd));
        }
        self.share_resolver(agent, &root, &mut config);
        self.places.make(new.id)?;
        let bundle = self.places.bundle(new.id);
        config.state.bundle = text(&bundle)?.to_owned();
        let guest_hooks = config.guest_hooks.take();
        let guest_hooks = guest_hooks.map(|dir| GuestHooks { dir: dir.into(), state: config.state.clone() });
        guest_hooks.iter().try_for_each(GuestHooks::check)?;
        self.finish(agent, &mut config)?.write(&bundle)?;
        let file = bundle.join("config.json");
        fs::write(&file, config.to_json()).map_err(|error| io(file.display(), &error))?;
        let stdio = Endpoints::open(&bundle, "console.sock", config.terminal, new.stdin, &identity, uid)?;
        let (state, bundle) = (text(&self.places.state)?, text(&bundle)?);
        let job = ["create", state, new.id, bundle, stdio.console_path()?];
        let Made { child, channel } = summon(agent, &job, stdio.process_sides())?;
        let streams = stdio.into_streams(new.terminal_size.unwrap_or_default())?;
        let init = child.pidfd.try_clone().map_err(|error| io("a descriptor", &error))?;
        let process = (child.pid, init);
        let container = Container::new(new.id, new.token, config.heritage(), process, channel, guest_hooks);
        self.oom.watch(agent, new.id, &container.group)?;
        if let Some(hooks) = &container.guest_hooks {
            hooks.run(agent, When::Prestart, Some(child.pid))?;
        }
        Ok((container, child, streams))
    }

    /// What the container's processes do last. Mistakes in the profile are found here.
    fn finish(&self, agent: &Agent, config: &mut Config) -> Outcome<Finish> {
        let compiled = config.seccomp.as_ref().map(seccomp::compile).transpose()?;
        if let Some(unknown) = compiled.as_ref().map(|compiled| &compiled.unknown).filter(|names| !names.is_empty()) {
            let id = &config.state.id;
            agent.warn(format!("container {id:?}: seccomp profile: no such system calls: {}", unknown.join(", ")));
        }
        Ok(Finish {
            filter: compiled.map(|compiled| compiled.filter),
            hooks: std::mem::take(&mut config.hooks),
            state: config.state.clone(),
        })
    }

    /// Containers see the pod's resolver configuration, unless they have something of their own there.
    fn share_resolver(&self, agent: &Agent, root: &Root, config: &mut Config) {
        if config.is_on_mount(RESOLVER) || !self.resolver.exists() {
            return;
        }
        match (root.make_file(Path::new(RESOLVER)), self.resolver.to_str()) {
            (Ok(_), Some(source)) => config.mount_file(source, RESOLVER),
            // A root that is read-only on the host and has no such file can still run programs that need none.
            (Err(errno), _) => agent.warn(format!("{RESOLVER} in {:?}: {}", config.rootfs, errno.desc())),
            (Ok(_), None) => agent.warn(format!("{}: its name is not text", self.resolver.display())),
        }
    }

    /// Removes what is left of a container whose creation failed.
    fn clear_away(&self, agent: &Agent, id: &str) {
        self.oom.forget(agent, id);
        let group = Cgroup::of(id);
        group.signal(libc::SIGKILL);
        if !group.wait_event("populated", 0, KILL_PATIENCE) {
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
        // Members that outlive the init exist only without a process namespace of the container's own.
        let late = || RemoteError::new(ErrorKind::Timeout, format!("processes of container {id:?} do not end"));
        if !container.kill(KILL_PATIENCE) {
            return Err(late());
        }
        if !agent.processes().forget_ending(&container.tokens(), KILL_PATIENCE) {
            return Err(late());
        }
        self.oom.forget(agent, id);
        container.group.remove()?;
        if let Some(hooks) = &container.guest_hooks {
            hooks.run_logged(agent, When::Poststop, None);
        }
        self.places.remove(id);
        self.table().remove(id);
        Ok(())
    }

    fn enter(&self, agent: &Agent, id: &str, token: &str, spec: &ProcessSpec) -> Outcome<(Child, Streams)> {
        let container = self.find(id)?;
        container.check_alive()?;
        container.check_not_paused()?;
        let root = Root::open(Path::new(&format!("/proc/{}/root", container.pid)))
            .map_err(|errno| wrong_state(format!("root of container {id:?}: {}", errno.desc())))?;
        let identity = look_up(&root, &spec.user, &spec.groups)?;
        let process = container.heritage.process(spec, &identity)?;
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
        let job = ["exec", text(&self.places.state)?, id, text(&file.0)?, stdio.console_path()?];
        let made = summon(agent, &job, stdio.process_sides());
        let Made { child, channel: _ } = made.map_err(|error| match container.check_alive() {
            // It ended meanwhile, which explains anything.
            Err(stopped) if error.kind == ErrorKind::System => stopped,
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
            Request::CreateContainer { id, token, spec, terminal_size, stdin } => {
                let new = New { id: &id, token: &token, terminal_size, stdin };
                return self.create(agent, &new, *spec);
            }
            Request::StartContainer { id } => {
                let container = self.find(&id)?;
                container.start(&self.places)?;
                agent.note_run();
                if let Some(hooks) = &container.guest_hooks {
                    hooks.run_logged(agent, When::Poststart, Some(container.pid));
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
                return Ok(Response::Processes(figures::processes(&container.group, &agent.processes().living())));
            }
            Request::Stats { id } => {
                let container = self.find(&id)?;
                return Ok(Response::Stats(Box::new(figures::stats(&container.group))));
            }
            other => return Err(RemoteError::new(ErrorKind::Unsupported, format!("not about containers: {other:?}"))),
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
    terminal_size: Option<WindowSize>,
    stdin: bool,
}

/// Both sides of the standard streams: pipes, or a terminal that is yet to be made inside of the container.
enum Endpoints {
    Pipes(Stdio),
    Terminal { console: Console, null: fs::File, uid: u32 },
}

impl Endpoints {
    fn open(dir: &Path, name: &str, terminal: bool, stdin: bool, identity: &Identity, uid: u32) -> Outcome<Self> {
        if terminal {
            let null = fs::File::options().read(true).write(true).open("/dev/null");
            let null = null.map_err(|error| io("/dev/null", &error))?;
            return Ok(Self::Terminal { console: Console::listen(dir, name)?, null, uid });
        }
        let stdio = Stdio::pipes(stdin)?;
        stdio.give_to(&Identity { uid, ..identity.clone() })?;
        Ok(Self::Pipes(stdio))
    }

    fn console_path(&self) -> Outcome<&str> {
        match self {
            Self::Pipes(_) => Ok(NO_CONSOLE),
            Self::Terminal { console, .. } => text(console.path()),
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

/// A file that is removed again.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
