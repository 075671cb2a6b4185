//! One method per request of the agent protocol, with the answer's own type.

use std::time::Duration;

use hutch_agent_proto::{
    ContainerStats, ExitStatus, GuestMount, NetworkSpec, ProcessInfo, ProcessSpec, Request, ResourceLimits, Response,
    SandboxSpec, Token, WindowSize,
};

use super::{AgentError, Session};

/// Arguments of [`Session::create_container`]; see [`Request::CreateContainer`].
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// The container, by its id in the pod.
    pub id: String,
    /// Token of the container's init process.
    pub token: Token,
    /// OCI runtime configuration with paths of the guest.
    pub spec: serde_json::Value,
    /// User of the init process, names allowed; `None`: the numbers of `spec`.
    pub user: Option<String>,
    /// Additional groups of `user`.
    pub groups: Vec<String>,
    /// Size of the terminal, if there is one.
    pub terminal_size: Option<WindowSize>,
    /// Whether the host will open a stdin stream.
    pub stdin: bool,
}

/// Typed calls. Each waits at most `deadline`; all fail as [`Session::call`] does.
impl Session {
    /// Checks that the agent answers.
    pub fn ping(&self, deadline: Duration) -> Result<(), AgentError> {
        self.done("ping", Request::Ping, deadline)
    }

    /// Sets up the environment that all processes of the guest share. Allowed once per guest.
    pub fn setup_sandbox(&self, spec: SandboxSpec, deadline: Duration) -> Result<(), AgentError> {
        self.done("set up the sandbox", Request::SetupSandbox(Box::new(spec)), deadline)
    }

    /// Sets the guest's clock, nanoseconds since the epoch.
    pub fn set_clock(&self, unix_ns: u64, deadline: Duration) -> Result<(), AgentError> {
        self.done("set the clock", Request::SetClock { unix_ns }, deadline)
    }

    /// Starts a program and returns its pid in the guest. Refusals of kind `ProgramNotFound` and `ProgramNotExecutable`
    /// concern the program itself.
    pub fn start_process(
        &self,
        token: &str,
        container: Option<&str>,
        process: ProcessSpec,
        deadline: Duration,
    ) -> Result<i32, AgentError> {
        let request = Request::StartProcess {
            token: token.to_owned(),
            container: container.map(str::to_owned),
            process: Box::new(process),
        };
        self.started("start the process", request, deadline)
    }

    /// Waits for the end of a process; `None` when `timeout` has passed first. Without `timeout` it waits as long as
    /// the session lives.
    pub fn wait_process(&self, token: &str, timeout: Option<Duration>) -> Result<Option<ExitStatus>, AgentError> {
        match self.call_with_timeout(Request::WaitProcess { token: token.to_owned() }, timeout)? {
            None => Ok(None),
            Some(Response::Exited(status)) => Ok(Some(status)),
            Some(_) => Err(AgentError::Unexpected("wait for the process")),
        }
    }

    /// Signals a process, with `all` also the processes that belong to it.
    pub fn signal_process(&self, token: &str, signal: i32, all: bool, deadline: Duration) -> Result<(), AgentError> {
        let request = Request::SignalProcess { token: token.to_owned(), signal, all };
        self.done("signal the process", request, deadline)
    }

    /// Gives the process's terminal a new size.
    pub fn resize_terminal(&self, token: &str, size: WindowSize, deadline: Duration) -> Result<(), AgentError> {
        self.done("resize the terminal", Request::ResizeTerminal { token: token.to_owned(), size }, deadline)
    }

    /// Closes the process's stdin after the bytes that were already sent.
    pub fn close_stdin(&self, token: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("close stdin", Request::CloseStdin { token: token.to_owned() }, deadline)
    }

    /// Makes the agent forget an ended process.
    pub fn forget_process(&self, token: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("forget the process", Request::ForgetProcess { token: token.to_owned() }, deadline)
    }

    /// Creates a container and returns the guest pid of its waiting init process.
    pub fn create_container(&self, new: NewContainer, deadline: Duration) -> Result<i32, AgentError> {
        let NewContainer { id, token, spec, user, groups, terminal_size, stdin } = new;
        let spec = Box::new(spec);
        let request = Request::CreateContainer { id, token, spec, user, groups, terminal_size, stdin };
        self.started("create the container", request, deadline)
    }

    /// Runs the program of a created container.
    pub fn start_container(&self, id: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("start the container", Request::StartContainer { id: id.to_owned() }, deadline)
    }

    /// Signals a container's init, or all its processes.
    pub fn kill_container(&self, id: &str, signal: i32, all: bool, deadline: Duration) -> Result<(), AgentError> {
        self.done("signal the container", Request::KillContainer { id: id.to_owned(), signal, all }, deadline)
    }

    /// Removes a stopped container, with `force` a running one too.
    pub fn remove_container(&self, id: &str, force: bool, deadline: Duration) -> Result<(), AgentError> {
        self.done("remove the container", Request::RemoveContainer { id: id.to_owned(), force }, deadline)
    }

    /// Freezes a container.
    pub fn pause_container(&self, id: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("pause the container", Request::PauseContainer { id: id.to_owned() }, deadline)
    }

    /// Thaws a container.
    pub fn resume_container(&self, id: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("resume the container", Request::ResumeContainer { id: id.to_owned() }, deadline)
    }

    /// Changes a container's limits.
    pub fn update_container(&self, id: &str, limits: ResourceLimits, deadline: Duration) -> Result<(), AgentError> {
        self.done("update the container", Request::UpdateContainer { id: id.to_owned(), limits }, deadline)
    }

    /// Processes of a container.
    pub fn list_processes(&self, id: &str, deadline: Duration) -> Result<Vec<ProcessInfo>, AgentError> {
        match self.call(Request::ListProcesses { id: id.to_owned() }, deadline)? {
            Response::Processes(list) => Ok(list),
            _ => Err(AgentError::Unexpected("list processes")),
        }
    }

    /// Resource usage of a container.
    pub fn stats(&self, id: &str, deadline: Duration) -> Result<ContainerStats, AgentError> {
        match self.call(Request::Stats { id: id.to_owned() }, deadline)? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(AgentError::Unexpected("read statistics")),
        }
    }

    /// Mounts a file system in the guest.
    pub fn mount(&self, mount: GuestMount, deadline: Duration) -> Result<(), AgentError> {
        self.done("mount in the guest", Request::Mount(mount), deadline)
    }

    /// Unmounts a file system in the guest.
    pub fn unmount(&self, target: &str, deadline: Duration) -> Result<(), AgentError> {
        self.done("unmount in the guest", Request::Unmount { target: target.to_owned() }, deadline)
    }

    /// Adds or changes interfaces and routes.
    pub fn configure_network(&self, network: NetworkSpec, deadline: Duration) -> Result<(), AgentError> {
        self.done("configure the network", Request::ConfigureNetwork(network), deadline)
    }

    /// Makes sure that `count` vCPUs are online.
    pub fn online_cpus(&self, count: u32, deadline: Duration) -> Result<(), AgentError> {
        self.done("bring CPUs online", Request::OnlineCpus { count }, deadline)
    }

    /// Asks for an orderly power-off and waits until the agent closes the session, which it does once file systems are
    /// flushed. The caller has to check that the machine has stopped.
    ///
    /// # Errors
    /// [`AgentError::Deadline`] if the session is still open after `deadline`, and the agent's refusal.
    pub fn power_off(&self, deadline: Duration) -> Result<(), AgentError> {
        match self.call_with_timeout(Request::PowerOff, Some(deadline)) {
            // The end of the session is the answer.
            Err(AgentError::Dead(_)) | Ok(Some(_)) => Ok(()),
            Ok(None) => Err(AgentError::Deadline { what: "power off", after: deadline }),
            Err(error) => Err(error),
        }
    }

    fn done(&self, what: &'static str, request: Request, deadline: Duration) -> Result<(), AgentError> {
        match self.call(request, deadline)? {
            Response::Done => Ok(()),
            _ => Err(AgentError::Unexpected(what)),
        }
    }

    fn started(&self, what: &'static str, request: Request, deadline: Duration) -> Result<i32, AgentError> {
        match self.call(request, deadline)? {
            Response::Started { pid } => Ok(pid),
            _ => Err(AgentError::Unexpected(what)),
        }
    }
}
