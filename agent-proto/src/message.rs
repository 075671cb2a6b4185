//! Messages in the order in which they occur on a connection.

use serde::{Deserialize, Serialize};

use crate::{
    ContainerStats, ExitStatus, ProcessInfo, ProcessSpec, RemoteError, ResourceLimits, SandboxSpec, WindowSize,
};

/// Highest number of a signal (signal(7)).
pub const MAX_SIGNAL: i32 = 64;

/// The host's name for a process, unique in the sandbox until it is forgotten. [`crate::is_token`] checks its form.
pub type Token = String;

/// First frame of a connection, sent by the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// Requests and events; both sides send [`Hello`] next.
    Control,
    /// One standard stream of the process `token`; only the host opens these.
    Stream {
        /// The process, by the token that the host gave it at its start.
        token: Token,
        /// The stream of the process. With a terminal only [`StdStream::Terminal`] exists.
        stream: StdStream,
    },
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdStream {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
    /// Both directions of a pseudo-terminal.
    Terminal,
}

/// Sent by both sides at the start of a control connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// Name and version of the sender's program.
    pub program: String,
    /// `uname -r` of the guest; empty from the host.
    #[serde(default)]
    pub kernel: String,
}

/// A message of the host on a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFrame {
    /// Number that the host chooses; the reply carries the same.
    pub id: u64,
    /// The request itself.
    pub request: Request,
}

/// A message of the agent on a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentFrame {
    /// The answer to a request.
    Reply {
        /// Id of the request.
        id: u64,
        /// The response or the error.
        result: Result<Response, RemoteError>,
    },
    /// An event that no request asked for.
    Event(Event),
}

/// Requests of the host. The reply is [`Response::Done`] unless another one is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Does nothing; the reply shows that the agent is alive.
    Ping,
    /// Sets up the host name, clock, mounts and network of all processes. Once, before the first process.
    SetupSandbox(Box<SandboxSpec>),
    /// Sets the guest's real-time clock to nanoseconds since the epoch.
    SetClock {
        /// Nanoseconds since 1970-01-01 UTC.
        unix_ns: u64,
    },
    /// Starts a process. Replies [`Response::Started`] once the program has been executed.
    ///
    /// Streams wait in the agent until the host opens them. When the process ends, the agent drops stdin; it keeps
    /// stdout and stderr until the host has drained them or forgotten the process.
    StartProcess {
        /// Token of the new process.
        token: Token,
        /// Container that the process joins; `None`: a process of the sandbox itself.
        container: Option<String>,
        /// The program and its environment.
        process: Box<ProcessSpec>,
    },
    /// Replies [`Response::Exited`] when the process has ended, at once if it has already.
    WaitProcess {
        /// The process, by the token that the host gave it at its start.
        token: Token,
    },
    /// Sends a signal to the process, or also to the processes that it started.
    SignalProcess {
        /// The process, by the token that the host gave it at its start.
        token: Token,
        /// Linux signal number.
        signal: i32,
        /// Signal every process of its container too. For a process of the sandbox itself: its descendants and the
        /// members of its session, also after it has ended.
        all: bool,
    },
    /// Sets the size of the process's terminal.
    ResizeTerminal {
        /// The process, by the token that the host gave it at its start.
        token: Token,
        /// New size.
        size: WindowSize,
    },
    /// Ends the process's stdin after the bytes that have already arrived on the stream. (A shutdown of the stream's
    /// write side also waits for bytes that are still under way.) A terminal gets its end-of-file character instead, if
    /// its line discipline is in canonical mode.
    CloseStdin {
        /// The process, by the token that the host gave it at its start.
        token: Token,
    },
    /// Forgets an ended process: its status and undelivered output.
    ForgetProcess {
        /// The process, by the token that the host gave it at its start.
        token: Token,
    },
    /// Creates an OCI container from a runtime-spec `config.json`, without starting its program. `token` becomes the
    /// token of its init process. Replies [`Response::Started`] with the guest pid of the waiting init.
    CreateContainer {
        /// The container, by its id in the pod.
        id: String,
        /// Token of the init process.
        token: Token,
        /// The OCI runtime spec, with paths of the guest. A process without capabilities in it has none.
        spec: Box<serde_json::Value>,
        /// `user[:group]` of the init process, names or numbers, resolved inside the root. `None`: the numbers of
        /// `spec`. Never taken from annotations, which others than the host's administrator may write.
        user: Option<String>,
        /// Additional groups that belong to `user`, names or numbers.
        groups: Vec<String>,
        /// Size of the terminal if `process.terminal` is set.
        terminal_size: Option<WindowSize>,
        /// Whether the host will open a stdin stream; if not, stdin is /dev/null.
        stdin: bool,
    },
    /// Runs the program of a created container.
    StartContainer {
        /// The container, by its id in the pod.
        id: String,
    },
    /// Signals a container's init, or all of its processes.
    KillContainer {
        /// The container, by its id in the pod.
        id: String,
        /// Linux signal number.
        signal: i32,
        /// Signal all processes of the container.
        all: bool,
    },
    /// Removes a stopped container from the guest; with `force` kills it first.
    RemoveContainer {
        /// The container, by its id in the pod.
        id: String,
        /// Kill processes that still run.
        force: bool,
    },
    /// Freezes a container's cgroup.
    PauseContainer {
        /// The container, by its id in the pod.
        id: String,
    },
    /// Thaws a container's cgroup.
    ResumeContainer {
        /// The container, by its id in the pod.
        id: String,
    },
    /// Changes a container's limits.
    UpdateContainer {
        /// The container, by its id in the pod.
        id: String,
        /// The new limits; absent ones stay.
        limits: ResourceLimits,
    },
    /// Replies [`Response::Processes`].
    ListProcesses {
        /// The container, by its id in the pod.
        id: String,
    },
    /// Replies [`Response::Stats`].
    Stats {
        /// The container, by its id in the pod.
        id: String,
    },
    /// Mounts a file system in the guest, for containers created later.
    Mount(crate::GuestMount),
    /// Unmounts a file system of [`Request::Mount`].
    Unmount {
        /// Mount point in the guest.
        target: String,
    },
    /// Adds or changes network interfaces and routes.
    ConfigureNetwork(crate::NetworkSpec),
    /// Brings the first `count` vCPUs online and takes the others offline.
    OnlineCpus {
        /// Number of vCPUs.
        count: u32,
    },
    /// Waits until the guest has `more` bytes of memory beyond those that it booted with.
    AwaitMemory {
        /// Additional memory in bytes.
        more: u64,
    },
    /// Ends every process, flushes file systems and powers the guest off. The connection ends without a reply.
    PowerOff,
}

/// Successful answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// The request succeeded and has no result.
    Done,
    /// The process runs.
    Started {
        /// Pid in the guest.
        pid: i32,
    },
    /// The process has ended.
    Exited(ExitStatus),
    /// Processes of a container.
    Processes(Vec<ProcessInfo>),
    /// Statistics of a container.
    Stats(Box<ContainerStats>),
}

/// Events that the agent reports on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A process ended. Its output may still be on its way: an output stream delivers it before its own end. The event
    /// of a short-lived process may come before the reply to the request that started it.
    Exited {
        /// The process, by the token that the host gave it at its start.
        token: Token,
        /// Exit code or signal.
        status: ExitStatus,
    },
    /// The guest's kernel killed a process of the container because memory ran out.
    OutOfMemory {
        /// The container, by its id in the pod.
        container: String,
    },
    /// A line for the host's log.
    Log {
        /// `error`, `warn`, `info` or `debug`.
        level: String,
        /// Text of the line.
        message: String,
    },
}
