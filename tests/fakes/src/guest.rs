//! A model of a guest and its agent: containers, processes, mounts, events. Plain data; no threads, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hutch_agent_proto::{
    ContainerStats, Event, ExitStatus, GuestMount, ProcessInfo, ProcessSpec, RemoteError, RemoteErrorKind, Request,
    ResourceLimits, Response, SandboxSpec,
};

/// State of a container in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Its init waits.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Stopped,
}

#[derive(Debug, Clone)]
struct GuestContainer {
    token: String,
    state: GuestState,
    spec: serde_json::Value,
    limits: ResourceLimits,
    oom_kills: u64,
}

#[derive(Debug, Clone)]
struct GuestProcess {
    pid: i32,
    container: Option<String>,
    args: Vec<String>,
    status: Option<ExitStatus>,
    signals: Vec<i32>,
}

/// The agent's answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// At once.
    Now(Result<Response, RemoteError>),
    /// When this process has ended.
    WhenEnded(String),
    /// Nothing: the guest powers off.
    PowerOff,
}

/// A guest.
#[derive(Debug, Clone, Default)]
pub struct FakeGuest {
    sandbox: Option<SandboxSpec>,
    containers: BTreeMap<String, GuestContainer>,
    processes: BTreeMap<String, GuestProcess>,
    mounts: BTreeSet<String>,
    mounted: Vec<GuestMount>,
    events: Vec<Event>,
    next_pid: i32,
    cpus: u32,
    memory_more: u64,
    /// The agent no longer answers.
    pub hangs: bool,
    /// It answers to a power-off, and stays on.
    pub stays_on: bool,
    /// User and groups of each container's init process, as the request had them.
    pub users: BTreeMap<String, (Option<String>, Vec<String>)>,
    /// The process that was started last.
    pub last_process: Option<ProcessSpec>,
    /// The runtime's bound for the answer to the last request of each kind.
    pub timeouts: BTreeMap<&'static str, Duration>,
}

fn refuse(kind: RemoteErrorKind, message: String) -> Result<Response, RemoteError> {
    Err(RemoteError::new(kind, message))
}

impl FakeGuest {
    /// A guest that has just booted.
    pub fn new() -> Self {
        Self { next_pid: 100, ..Self::default() }
    }

    /// Handles a request.
    pub fn handle(&mut self, request: Request) -> Answer {
        Answer::Now(match request {
            Request::PowerOff if self.stays_on => Ok(Response::Done),
            Request::PowerOff => return Answer::PowerOff,
            Request::WaitProcess { token } => match self.processes.get(&token) {
                None => Err(RemoteError::new(RemoteErrorKind::NotFound, format!("no process {token}"))),
                Some(GuestProcess { status: Some(status), .. }) => Ok(Response::Exited(*status)),
                Some(_) => return Answer::WhenEnded(token),
            },
            Request::SetupSandbox(spec) if self.sandbox.is_some() => {
                refuse(RemoteErrorKind::AlreadyExists, format!("sandbox {} is set up already", spec.hostname))
            }
            Request::SetupSandbox(spec) => {
                self.mounts.extend(spec.mounts.iter().map(|mount| mount.target.clone()));
                self.sandbox = Some(*spec);
                Ok(Response::Done)
            }
            Request::CreateContainer { id, token, spec, user, groups, .. } => {
                let created = self.create(id.clone(), token, *spec);
                if created.is_ok() {
                    self.users.insert(id, (user, groups));
                }
                created
            }
            Request::StartContainer { id } => self.start(&id),
            Request::StartProcess { token, container, process } => {
                self.last_process = Some((*process).clone());
                self.exec(token, container, process.args)
            }
            Request::KillContainer { id, signal, all } => self.kill(&id, signal, all),
            Request::RemoveContainer { id, force } => self.remove(&id, force),
            Request::SignalProcess { token, signal, .. } => match self.processes.contains_key(&token) {
                true => {
                    self.signal(&token, signal);
                    Ok(Response::Done)
                }
                false => refuse(RemoteErrorKind::NotFound, format!("no process {token}")),
            },
            Request::ForgetProcess { token } => match self.processes.get(&token) {
                Some(process) if process.status.is_none() => {
                    refuse(RemoteErrorKind::WrongState, format!("{token} runs"))
                }
                Some(_) => {
                    self.processes.remove(&token);
                    Ok(Response::Done)
                }
                None => refuse(RemoteErrorKind::NotFound, format!("no process {token}")),
            },
            Request::ResizeTerminal { token, .. } | Request::CloseStdin { token } => {
                match self.processes.contains_key(&token) {
                    true => Ok(Response::Done),
                    false => refuse(RemoteErrorKind::NotFound, format!("no process {token}")),
                }
            }
            Request::UpdateContainer { id, limits } => self.with(&id, |container| {
                container.limits = limits;
                Response::Done
            }),
            Request::ListProcesses { id } => self.list(&id),
            Request::Stats { id } => self.stats(&id),
            Request::PauseContainer { id } | Request::ResumeContainer { id } => self.with(&id, |_| Response::Done),
            Request::Mount(mount) => {
                self.mounts.insert(mount.target.clone());
                self.mounted.push(mount);
                Ok(Response::Done)
            }
            Request::Unmount { target } => match self.mounts.remove(&target) {
                true => Ok(Response::Done),
                false => refuse(RemoteErrorKind::NotFound, format!("nothing is mounted at {target}")),
            },
            Request::AwaitMemory { more } => {
                self.memory_more = more;
                Ok(Response::Done)
            }
            Request::OnlineCpus { count } => {
                self.cpus = count;
                Ok(Response::Done)
            }
            Request::Ping | Request::SetClock { .. } | Request::ConfigureNetwork(_) => Ok(Response::Done),
            other => refuse(RemoteErrorKind::Unsupported, format!("{other:?}")),
        })
    }

    fn with(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut GuestContainer) -> Response,
    ) -> Result<Response, RemoteError> {
        match self.containers.get_mut(id) {
            Some(container) => Ok(change(container)),
            None => refuse(RemoteErrorKind::NotFound, format!("no container {id}")),
        }
    }

    fn create(&mut self, id: String, token: String, spec: serde_json::Value) -> Result<Response, RemoteError> {
        if self.containers.contains_key(&id) || self.processes.contains_key(&token) {
            return refuse(RemoteErrorKind::AlreadyExists, format!("container {id} exists"));
        }
        let args = spec["process"]["args"].as_array().cloned().unwrap_or_default();
        let args: Vec<String> = args.iter().filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
        let pid = self.add_process(&token, Some(id.clone()), args);
        let limits = ResourceLimits::default();
        let state = GuestState::Created;
        self.containers.insert(id, GuestContainer { token, state, spec, limits, oom_kills: 0 });
        Ok(Response::Started { pid })
    }

    fn start(&mut self, id: &str) -> Result<Response, RemoteError> {
        let Some(container) = self.containers.get_mut(id) else {
            return refuse(RemoteErrorKind::NotFound, format!("no container {id}"));
        };
        if container.state != GuestState::Created {
            return refuse(RemoteErrorKind::WrongState, format!("container {id} was started already"));
        }
        let token = container.token.clone();
        let args = self.processes.get(&token).map(|process| process.args.clone()).unwrap_or_default();
        if args.first().is_some_and(|arg| arg == "missing") {
            return refuse(RemoteErrorKind::ProgramNotFound, "executable file not found in $PATH".into());
        }
        container.state = GuestState::Running;
        self.obey(&token, &args);
        Ok(Response::Done)
    }

    fn exec(&mut self, token: String, container: Option<String>, args: Vec<String>) -> Result<Response, RemoteError> {
        if let Some(id) = &container {
            match self.containers.get(id).map(|container| container.state) {
                None => return refuse(RemoteErrorKind::NotFound, format!("no container {id}")),
                Some(GuestState::Stopped) => {
                    return refuse(RemoteErrorKind::WrongState, format!("container {id} has ended"))
                }
                Some(_) => {}
            }
        }
        if args.first().is_some_and(|arg| arg == "missing") {
            return refuse(RemoteErrorKind::ProgramNotFound, "executable file not found in $PATH".into());
        }
        let pid = self.add_process(&token, container, args.clone());
        self.obey(&token, &args);
        Ok(Response::Started { pid })
    }

    fn add_process(&mut self, token: &str, container: Option<String>, args: Vec<String>) -> i32 {
        self.next_pid += 1;
        let process = GuestProcess { pid: self.next_pid, container, args, status: None, signals: Vec::new() };
        self.processes.insert(token.to_owned(), process);
        self.next_pid
    }

    /// Does what the program's arguments say it does.
    fn obey(&mut self, token: &str, args: &[String]) {
        if let [program, code, ..] = args
            && program == "exit"
        {
            self.end(token, ExitStatus::Code(code.parse().unwrap_or(255)));
        }
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<Response, RemoteError> {
        let Some(container) = self.containers.get(id) else {
            return refuse(RemoteErrorKind::NotFound, format!("no container {id}"));
        };
        if container.state == GuestState::Stopped {
            return refuse(RemoteErrorKind::WrongState, format!("container {id} has ended"));
        }
        let init = container.token.clone();
        let tokens: Vec<String> = self
            .processes
            .iter()
            .filter(|(token, process)| **token == init || all && process.container.as_deref() == Some(id))
            .map(|(token, _)| token.clone())
            .collect();
        for token in tokens {
            self.signal(&token, signal);
        }
        Ok(Response::Done)
    }

    fn remove(&mut self, id: &str, force: bool) -> Result<Response, RemoteError> {
        let Some(container) = self.containers.get(id) else {
            return refuse(RemoteErrorKind::NotFound, format!("no container {id}"));
        };
        let token = container.token.clone();
        if container.state != GuestState::Stopped {
            if !force {
                return refuse(RemoteErrorKind::WrongState, format!("container {id} runs"));
            }
            self.end(&token, ExitStatus::Signal(libc::SIGKILL));
        }
        self.containers.remove(id);
        self.processes.retain(|_, process| process.container.as_deref() != Some(id));
        Ok(Response::Done)
    }

    fn signal(&mut self, token: &str, signal: i32) {
        let Some(process) = self.processes.get_mut(token) else { return };
        if process.status.is_some() {
            return;
        }
        process.signals.push(signal);
        let program = process.args.first().map_or("", String::as_str);
        let ignored = match program {
            "undead" => true,
            "deaf" => signal != libc::SIGKILL,
            _ => matches!(signal, libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT),
        };
        if !ignored {
            self.end(token, ExitStatus::Signal(signal));
        }
    }

    /// Ends a process; with the init process of a container, all of the container's.
    fn end(&mut self, token: &str, status: ExitStatus) {
        let Some(process) = self.processes.get_mut(token) else { return };
        if process.status.is_some() {
            return;
        }
        process.status = Some(status);
        let container = process.container.clone();
        self.events.push(Event::Exited { token: token.to_owned(), status });
        let Some(id) = container else { return };
        match self.containers.get_mut(&id) {
            Some(container) if container.token == token => container.state = GuestState::Stopped,
            _ => return,
        }
        let others: Vec<String> = self
            .processes
            .iter()
            .filter(|(_, process)| process.container.as_deref() == Some(id.as_str()) && process.status.is_none())
            .map(|(token, _)| token.clone())
            .collect();
        for other in others {
            self.end(&other, ExitStatus::Signal(libc::SIGKILL));
        }
    }

    fn list(&self, id: &str) -> Result<Response, RemoteError> {
        if !self.containers.contains_key(id) {
            return refuse(RemoteErrorKind::NotFound, format!("no container {id}"));
        }
        let mine = self
            .processes
            .iter()
            .filter(|(_, process)| process.container.as_deref() == Some(id) && process.status.is_none());
        let list = mine.map(|(token, process)| ProcessInfo {
            pid: process.pid,
            ppid: 1,
            uid: 0,
            cpu_ms: 0,
            start_secs: 0,
            tty: "?".into(),
            command: process.args.join(" "),
            token: Some(token.clone()),
        });
        Ok(Response::Processes(list.collect()))
    }

    fn stats(&self, id: &str) -> Result<Response, RemoteError> {
        let Some(container) = self.containers.get(id) else {
            return refuse(RemoteErrorKind::NotFound, format!("no container {id}"));
        };
        let pids = self
            .processes
            .values()
            .filter(|process| process.container.as_deref() == Some(id) && process.status.is_none())
            .count() as u64;
        let memory_limit_bytes =
            container.limits.memory.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(u64::MAX);
        let oom_kills = container.oom_kills;
        Ok(Response::Stats(Box::new(ContainerStats { pids, oom_kills, memory_limit_bytes, ..Default::default() })))
    }

    /// The init process of `container` ends with `code`.
    pub fn exit(&mut self, container: &str, code: u8) {
        if let Some(token) = self.containers.get(container).map(|container| container.token.clone()) {
            self.end(&token, ExitStatus::Code(code));
        }
    }

    /// A process ends with `code`.
    pub fn exit_process(&mut self, token: &str, code: u8) {
        self.end(token, ExitStatus::Code(code));
    }

    /// The kernel kills the init process of `container` because memory ran out.
    pub fn out_of_memory(&mut self, container: &str) {
        let Some(found) = self.containers.get_mut(container) else { return };
        found.oom_kills += 1;
        let token = found.token.clone();
        self.events.push(Event::OutOfMemory { container: container.to_owned() });
        self.end(&token, ExitStatus::Signal(libc::SIGKILL));
    }

    /// Ids and states of the containers.
    pub fn containers(&self) -> Vec<(String, GuestState)> {
        self.containers.iter().map(|(id, container)| (id.clone(), container.state)).collect()
    }

    /// The OCI configuration a container was created with.
    pub fn spec(&self, container: &str) -> Option<serde_json::Value> {
        self.containers.get(container).map(|container| container.spec.clone())
    }

    /// The specification that the sandbox was set up with.
    pub fn sandbox(&self) -> Option<&SandboxSpec> {
        self.sandbox.as_ref()
    }

    /// Tokens of living processes of a container.
    pub fn living(&self, container: &str) -> Vec<String> {
        let living = self
            .processes
            .iter()
            .filter(|(_, process)| process.container.as_deref() == Some(container) && process.status.is_none());
        living.map(|(token, _)| token.clone()).collect()
    }

    /// Signals that a process has got.
    pub fn signals(&self, token: &str) -> Vec<i32> {
        self.processes.get(token).map(|process| process.signals.clone()).unwrap_or_default()
    }

    /// Token of a container's init process.
    pub fn init(&self, container: &str) -> Option<String> {
        self.containers.get(container).map(|container| container.token.clone())
    }

    /// How a process ended; `None` if it lives or is not known.
    pub fn status(&self, token: &str) -> Option<ExitStatus> {
        self.processes.get(token).and_then(|process| process.status)
    }

    /// Whether a process is known, living or ended.
    pub fn knows(&self, token: &str) -> bool {
        self.processes.contains_key(token)
    }

    /// Bytes of memory that were waited for last.
    pub fn memory_more(&self) -> u64 {
        self.memory_more
    }

    /// CPUs brought online.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Mount points made by the agent.
    pub fn mounts(&self) -> Vec<String> {
        self.mounts.iter().cloned().collect()
    }

    /// Every mount that was asked for after the set-up, in order.
    pub fn mounted(&self) -> &[GuestMount] {
        &self.mounted
    }

    /// Events from number `from` on.
    pub fn events_from(&self, from: usize) -> &[Event] {
        self.events.get(from..).unwrap_or_default()
    }
}
